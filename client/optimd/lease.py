"""Lease renewal in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from optimdpb.errors import OptimdError, Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd import words
from optimd.surroundings import Surroundings
from optimd.transport import CallFailed, Transport

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
TRANSPORT_DETAIL_MAX = 200


class LeaseKeeper:
    """Sends a heartbeat every third of a lease in the background, from start() until stopped or refused.

    joined_s: when Join was sent. idle_s: how long the program has not called its worker. look: called as often, but not
    more seldom than something is to be said of a wait, with the time that it may take. `local_calls`: how the server
    offered to be called, the last time that it was heard. `renewed_s`: when the last heartbeat that was answered went
    out. `expired`: a heartbeat was refused because the epoch is not live any more. Other refusals (superseded) are not
    reported from here: the worker's next call meets them too.
    """

    def __init__(
        self,
        transport: Transport,
        surroundings: Surroundings,
        request: pb.HeartbeatRequest,
        joined: pb.JoinResponse,
        joined_s: float,
        idle_s: Callable[[], float],
        look: Callable[[float], None],
    ) -> None:
        self._transport = transport
        self._surroundings = surroundings
        self._request = request
        self._interval_s = joined.lease_ms / 1000 / RENEWALS_PER_LEASE
        self._turn_s = min(self._interval_s, words.SILENCE_S)
        self._sent_s = joined_s
        self._idle_s = idle_s
        self._look = look
        self._end: Callable[[], None] | None = None
        self._starts = 0
        self._is_over = self._is_abandoned = False
        self._is_shared, self._why_not = False, ""
        self.epoch = request.epoch
        self.expired = False
        self.renewed_s = joined_s
        self.local_calls = joined.local_calls

    def start(self) -> None:
        """Begin."""
        self._starts += 1
        beat = partial(self._beat, self._starts)
        self._end = self._surroundings.repeat(self._turn_s, beat, f"optimd-lease-{self._request.worker}")

    def restart(self) -> None:
        """The connection was given up: it may hold the thread of a heartbeat for ever. Go on in another."""
        if self._end is not None and not self._is_over:
            self._end()
            self.start()

    def tell_memory(self, is_shared: bool, why_not: str) -> None:
        """From the next heartbeat on the server knows whether payloads travel in shared memory, and why not."""
        self._is_shared, self._why_not = is_shared, why_not

    def tell_calls(self, is_local: bool) -> None:
        """And whether calls go over its unix socket."""
        if self._is_shared:
            kind, detail = pb.TRANSPORT_SHARED_MEMORY, "on the server's own machine"
            detail += "" if is_local else ", calls by gRPC"
        else:
            kind, detail = pb.TRANSPORT_UNIX_SOCKET if is_local else pb.TRANSPORT_GRPC, self._why_not
        self._request.transport, self._request.transport_detail = kind, detail[:TRANSPORT_DETAIL_MAX]

    def stop(self) -> None:
        """Send no more heartbeats. Does not wait for one that is on its way."""
        self._is_over = True  # holds also where an interrupt cut start() off
        if self._end is not None:
            self._end()

    def abandon(self) -> None:
        """The worker is gone: no more heartbeats. In the background that is logged and the connection closed.

        Nothing here waits or takes a lock: the garbage collector may call it in the middle of anything.
        """
        self._is_abandoned = self._is_over = True

    def _beat(self, start: int) -> bool:
        if self._is_over or start != self._starts:
            if self._is_abandoned:
                text = "worker %r of job %r was dropped without leave() or close(): its membership ends with its lease"
                log.warning(text, self._request.worker, self._request.job)
                self._transport.close()
            return False
        is_due = self._surroundings.now_s() - self._sent_s + self._turn_s >= self._interval_s
        if is_due and not self._renew():
            return False
        if not self._is_over:
            self._look(self._turn_s)
        return True

    def _renew(self) -> bool:
        """One heartbeat. False if it was refused."""
        self._request.idle_ms = int(self._idle_s() * 1000)
        self._sent_s = sent_s = self._surroundings.now_s()
        try:
            answer = self._transport.call("Heartbeat", self._request, timeout_s=self._turn_s)
        except CallFailed:
            pass  # the next beat tries again; a reply lost is still a sign of life received
        except OptimdError as error:
            self.expired = isinstance(error, Refused) and error.reason in ("LEASE_EXPIRED", "NOT_JOINED")
            return False
        else:
            self.local_calls, self.renewed_s = answer.local_calls, sent_s
        return True
