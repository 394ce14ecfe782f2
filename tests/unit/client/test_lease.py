"""A heartbeat every third of a lease, through lost calls, until stopped or refused."""

from __future__ import annotations

import threading
import time
from typing import Any

from optimd.lease import LeaseKeeper
from optimd.surroundings import Machine
from optimd.transport import CallLost
from optimdpb.errors import LeaseExpired
from optimdpb.v1 import optimd_pb2 as pb

LEASE_S = 0.09


class Beats:
    """A transport that counts heartbeats; `answers` says what each raises, None for a good answer."""

    def __init__(self, *answers: Exception | None) -> None:
        self.requests: list[Any] = []
        self.times_s: list[float] = []
        self._answers = list(answers)
        self._changed = threading.Condition()

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        assert method == "Heartbeat"
        with self._changed:
            self.requests.append(request)
            self.times_s.append(time.monotonic())
            self._changed.notify_all()
            answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer
        return pb.HeartbeatResponse()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, 10)


def wait_over() -> None:
    """Return once no keeper of this worker is at work."""
    for thread in threading.enumerate():
        if thread.name == "optimd-lease-w0":
            thread.join(10)
            assert not thread.is_alive()


def keeper(beats: Beats, idle_s: float = 0.0) -> LeaseKeeper:
    """Started."""
    joined = pb.JoinResponse(epoch=3, lease_ms=int(LEASE_S * 1000))
    request = pb.HeartbeatRequest(job="j", worker="w0", epoch=3)
    lease = LeaseKeeper(beats, Machine(), request, joined, 0.0, lambda: idle_s, lambda _: None)  # type: ignore[arg-type]
    lease.start()
    return lease


def test_beats_every_third_of_a_lease_until_stopped() -> None:
    beats = Beats()
    started_s = time.monotonic()
    lease = keeper(beats)
    beats.wait(4)
    lease.stop()
    assert beats.times_s[3] - started_s >= 4 * LEASE_S / 3 * 0.9
    assert beats.requests[0] == pb.HeartbeatRequest(job="j", worker="w0", epoch=3, idle_ms=0)
    wait_over()


def test_a_lost_beat_is_followed_by_the_next() -> None:
    beats = Beats(CallLost("away"), CallLost("away"))
    lease = keeper(beats)
    beats.wait(4)
    lease.stop()


def test_a_refused_beat_is_the_last() -> None:
    beats = Beats(None, LeaseExpired("w0", 3))
    keeper(beats)
    wait_over()
    assert len(beats.requests) == 2
