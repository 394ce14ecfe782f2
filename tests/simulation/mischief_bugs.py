"""More defects put in on purpose: in what follows interrupts, dropped workers, broken calls, saves and starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import grpc
from optimd.delivery import Delivery
from optimd.lease import LeaseKeeper
from optimd.pusher import Pusher
from optimd.transport import CallBroken
from optimd_server.runtime import saver
from optimd_server.runtime.eventlog import EventLog
from optimd_server.runtime.saver import Saver
from optimd_server.runtime.server import Runtime
from optimdpb.errors import Refused

from tests.simulation import network
from tests.simulation.bugs import both, bug
from tests.simulation.control_bugs import BUGS

__all__ = ["BUGS"]


@bug
def an_interrupted_push_is_forgotten() -> Any:
    """As with try and finally around the call."""

    def deliver(self: Pusher, delivery: Delivery, *, pull: bool) -> Any:
        try:
            return real(self, delivery, pull=pull)
        finally:
            self._open = None

    real = Pusher._deliver
    return patch.object(Pusher, "_deliver", deliver)


def _as_refusals(wrong: Callable[[Refused], bool]) -> Any:
    """Failures of the transport that say nothing are taken for refusals, which consume no seq."""
    real = network.failure_of

    def failure_of(code: grpc.StatusCode, message: str, status: bytes) -> Any:
        failure = real(code, message, status)
        return failure.refusal if isinstance(failure, CallBroken) and wrong(failure.refusal) else failure

    return patch.object(network, "failure_of", failure_of)


@bug
def internal_is_taken_for_nothing_happened() -> Any:
    """The server failed, perhaps behind the commit; the next gradient gets the seq."""
    return _as_refusals(lambda refusal: "incident" in refusal.metadata)


@bug
def a_foreign_status_is_taken_for_nothing_happened() -> Any:
    """UNKNOWN or INTERNAL of a proxy, perhaps behind the commit; the next gradient gets the seq."""
    return _as_refusals(lambda refusal: "incident" not in refusal.metadata)


@bug
def the_heartbeat_outlives_its_worker() -> Any:
    """A worker that was dropped is a member for as long as its process lives."""
    return patch.object(LeaseKeeper, "abandon", lambda self: None)


@bug
def a_given_up_save_lets_the_next_one_in() -> Any:
    """The lock goes with the caller, the thread goes on, and the next save has another thread."""

    async def while_the_caller_waits(lock: Any, work: Any) -> Any:
        async with lock:
            return await work()

    async def call(self: Saver, work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    on_any_thread = patch.object(Saver, "_call", call)
    return both(patch.object(saver, "to_its_end", while_the_caller_waits), on_any_thread)


@bug
def the_end_saves_nothing_behind_a_failure() -> Any:
    """One job that cannot be saved keeps the next from it."""
    real = Saver._save_last

    async def save_last(self: Saver, host: Any) -> bool:
        behind = list(self.unsaved).index(host.name) > 0
        return True if behind else await real(self, host)

    return patch.object(Saver, "_save_last", save_last)


@bug
def an_unsaved_job_keeps_its_lineage() -> Any:
    """The end is said to be complete, though a job could not be saved."""
    real = saver.Saver.save_all

    async def save_all(self: Saver, hosts: Any) -> None:
        ended = self._store.mark_ended
        with patch.object(self._store, "mark_ended", lambda unsaved: ended(())):
            await real(self, hosts)

    return patch.object(Saver, "save_all", save_all)


@bug
def every_job_forks_where_one_was_not_saved() -> Any:
    """The end is not said to be one."""
    real = saver.Saver.save_all

    async def save_all(self: Saver, hosts: Any) -> None:
        ended = self._store.mark_ended
        with patch.object(self._store, "mark_ended", lambda unsaved: None if unsaved else ended(unsaved)):
            await real(self, hosts)

    return patch.object(Saver, "save_all", save_all)


@bug
def a_start_that_never_served_marks_the_directory() -> Any:
    """The next one finds everything lost that nobody lost."""
    real = Runtime.__init__

    def init(self: Runtime, config: Any, clock: Any, store: Any, wall_clock: Any) -> None:
        real(self, config, clock, store, wall_clock)
        stored = list(store.stored())
        store.mark_running()
        store.stored = lambda: iter(stored)

    return patch.object(Runtime, "__init__", init)


@bug
def a_failing_event_log_fails_the_job() -> Any:
    """What is for looking into a problem becomes one."""

    def write(self: EventLog, plain: Callable[[], Any]) -> None:
        self._file.write(str(plain()))

    return patch.object(EventLog, "_write", write)
