"""What is passed around of a server inside Ray."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import Any

import ray
from optimdpb.errors import OptimdError, ServerUnavailable

from optimd.address import is_loopback
from optimd.ray.actor import Place, tail
from optimd.ray.answers import answer_of
from optimd.surroundings import Machine
from optimd.worker import Worker, connect

log = logging.getLogger("optimd.ray")

# How long Ray may take for an answer of the server's actor that needs nothing but the actor itself.
ANSWER_S = 10.0
# How long a call that has failed looks whether the server has ended.
LOOK_S = 0.2
# A server that does not end in time is killed; the actor says so by then.
KILL_S = 10.0
# Of this process: they end with ray.shutdown().
started_here: set[tuple[int, str]] = set()


@dataclass(frozen=True)
class ServerHandle:
    """A running server: small, picklable, to be passed to tasks and actors. `address` is HOST:PORT.

    The server ends with stop(), and with the driver that started it; not with the last handle.
    """

    address: str
    actor: Any
    place: Place
    # The result of ServerActor.ended().
    ended: Any

    def connect(self, *, job: str, worker: str | None = None, **options: Any) -> Worker:
        """As optimd.connect. Call it inside the task or actor that uses the worker, never before it is shipped.

        Raises ServerUnavailable where the server is known to have ended, or cannot be reached from this node.
        """
        end = self._end(look_s=0)
        if end:
            raise ServerUnavailable(end)
        if self._is_in_cluster() and is_loopback(self.address):
            here = ray.util.get_node_ip_address()
            if self.place.ip not in (here, self.address.rpartition(":")[0]):
                raise ServerUnavailable(
                    f"the server listens on {self.address} of node {self.place.ip} alone, and this is node {here}:"
                    " start it with optimd.ray.start(insecure=True), so that it listens on its node's address"
                )
        return connect(self.address, job=job, worker=worker, _surroundings=_InRay(self), **options)

    def log(self) -> str:
        """The end of the server's log, also of one that has ended. Raises ServerUnavailable where Ray has none."""
        try:
            if not self._is_in_cluster():
                raise ServerUnavailable(f"no log of the server at {self.address}: this process is not in its cluster")
            if ray.wait([self.ended], timeout=LOOK_S)[0]:
                return str(ray.get(self.ended, timeout=ANSWER_S)[1])
            return str(ray.get(self.actor.log.remote(), timeout=ANSWER_S))
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            raise ServerUnavailable(f"no log of the server at {self.address}: {_in_short(error)}") from error

    def stop(self, timeout_s: float = 120.0) -> None:
        """Let the server save and end, and end its actor; it is killed after timeout_s.

        Harmless where the server has ended, and after ray.shutdown(), which ends it. Raises OptimdError, with the end
        of its log, if it could not save everything.
        """
        if not self._is_in_cluster():
            return
        try:
            why = f"the server at {self.address} saves and ends; it is killed after {timeout_s:g} s"
            status, end, said = answer_of(self.actor.stop.remote(timeout_s), timeout_s + KILL_S, lambda: why)
        except ray.exceptions.GetTimeoutError as error:
            raise OptimdError(f"the server's actor does not answer; it is killed: {_in_short(error)}") from error
        except ray.exceptions.RayError:
            return
        finally:
            with contextlib.suppress(Exception):
                ray.kill(self.actor)
        if status:
            raise OptimdError(f"the server at {self.address} {end}: {tail(said)}")

    def _is_in_cluster(self) -> bool:
        """Whether this process is in the server's cluster now. Asked first: Ray would start another one by itself."""
        if not ray.is_initialized():
            return False
        try:
            return any(node["NodeID"] == self.place.node_id for node in ray.nodes())
        except Exception as error:  # the cluster ends just now
            log.info("no list of the cluster's nodes: %s", error)
            return False

    def _end(self, look_s: float = LOOK_S) -> str:
        """How the server ended, as far as is known; "" while it runs."""
        server = f"the server at {self.address}"
        if not self._is_in_cluster():
            is_over = (os.getpid(), self.address) in started_here
            return f"{server} has ended with ray.shutdown(), as it belonged to this process" if is_over else ""
        if not ray.wait([self.ended], timeout=look_s)[0]:
            return ""
        try:
            end, said = ray.get(self.ended, timeout=ANSWER_S)
        except ray.exceptions.RayError as error:
            return f"{server} has ended with its actor: {_in_short(error)}"
        return f"{server} {end}; the end of its log:\n{tail(said)}"


class _InRay(Machine):
    """Knows by Ray when the server has ended."""

    def __init__(self, handle: ServerHandle) -> None:
        self._handle = handle

    def server_end(self) -> str:
        """See Surroundings."""
        try:
            return self._handle._end()
        except Exception as error:  # Ray's own trouble is no news of the server
            log.info("whether the server has ended cannot be found out: %s", error)
            return ""


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:1]) or type(error).__name__
