"""A server inside Ray: an actor that runs the daemon as its child, and a handle to connect to it from any task."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import Any

from optimdpb.errors import ServerUnavailable

from optimd.worker import Worker, connect

try:
    import ray
except ImportError as error:
    raise ImportError("optimd.ray needs Ray: pip install 'optimd[ray]'") from error

_READY = "serving on "
STOP_TIMEOUT_S = 45.0


@dataclass(frozen=True)
class ServerHandle:
    """A running server: small, picklable, to be passed to tasks and actors. `address` is HOST:PORT."""

    address: str
    actor: Any

    def connect(self, *, job: str, worker: str | None = None, **options: Any) -> Worker:
        """As optimd.connect. Call it inside the task or actor that uses the worker, never before it is shipped."""
        return connect(self.address, job=job, worker=worker, **options)

    def stop(self) -> None:
        """Drain the server and end its actor. Stopping twice is harmless."""
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self.actor.stop.remote())
            ray.kill(self.actor)


def start(
    *,
    host: str = "127.0.0.1",
    insecure: bool = False,
    threads: int | None = None,
    num_cpus: float = 1.0,
    startup_timeout_s: float = 120.0,
) -> ServerHandle:
    """Start a server on a free port of `host`, in an actor that takes `num_cpus` of the running Ray cluster.

    host must be one that the workers can reach; off loopback needs insecure=True while there is no TLS. threads: kernel
    threads. The server ends with stop(), with the actor, or with the driver. Raises ServerUnavailable, with the end of
    the server's log, if it does not come up.
    """
    arguments = ["--listen", f"{host}:0"]
    arguments += ["--insecure"] if insecure else []
    arguments += ["--threads", str(threads)] if threads is not None else []
    actor_class: Any = ray.remote(num_cpus=num_cpus, max_restarts=0)(_ServerActor)
    actor = actor_class.remote(arguments)
    try:
        address, problem = ray.get(actor.start.remote(startup_timeout_s), timeout=startup_timeout_s + 60)
    except ray.exceptions.GetTimeoutError as error:
        ray.kill(actor)
        raise ServerUnavailable(f"no room for the server's actor ({num_cpus} CPUs) in {startup_timeout_s} s") from error
    if problem:
        ray.kill(actor)
        raise ServerUnavailable(problem)
    return ServerHandle(address, actor)


class _ServerActor:
    """Owns the child. The child ends when its stdin closes, which also happens when this process is killed."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the actor
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float) -> tuple[str, str]:
        """(address, "") once it serves, or ("", what went wrong)."""
        command = [sys.executable, "-m", "optimd_server", "serve", *self._arguments, "--until-stdin-closes"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        assert self._process.stdout is not None
        watchdog = threading.Timer(timeout_s, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline().decode()
        watchdog.cancel()
        if line.startswith(_READY):
            return line.removeprefix(_READY).strip(), ""
        self._process.kill()
        self._log.seek(0)
        tail = self._log.read()[-2000:].decode(errors="replace")
        return "", f"the server did not come up (exit status {self._process.wait()}): {tail}"

    def stop(self) -> int:
        """Close its stdin, so that it drains, and wait. Returns its exit status."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
