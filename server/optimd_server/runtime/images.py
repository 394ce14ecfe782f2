"""The whole state of a job between two updates, as a snapshot, and back."""

from __future__ import annotations

import asyncio

from optimdpb.errors import Refused

from optimd_server.core.saved import restore, saved_state
from optimd_server.runtime.host import JobHost
from optimd_server.storage import Snapshot


def check_savable(host: JobHost) -> None:
    """Raises Refused(JOB_NOT_READY, JOB_FAILED, WRONG_STATE) while the job's state is none to be kept."""
    test = host.machine.state.range_test
    if not host.ready.is_set():
        raise Refused("JOB_NOT_READY", "the job has no parameters to save", job=host.name, state=host.state_name)
    host.check_trusted()
    if test is not None and test.active:
        message = "expected no range test on its way: what it does is not to be kept"
        raise Refused("WRONG_STATE", message, job=host.name, state=host.state_name)


async def image_of(host: JobHost) -> Snapshot:
    """The state; a copy of it, unless no update can follow. Raises as check_savable() does, and MemoryError."""
    async with host.slabs_still:
        check_savable(host)  # much may have happened before it was this one's turn
        state, copy = saved_state(host.machine), not host.still
        if host.one_thread:  # updates are made here, on the event loop: nothing may be read elsewhere
            images = host.shards.images(copy)
        else:
            images = await asyncio.to_thread(host.shards.images, copy)
    return Snapshot(host.name, host.spec, state, images)


async def fill(host: JobHost, snapshot: Snapshot, fresh_lineage: str | None) -> None:
    """Continue a saved job in a host that has seen no event yet; see core.saved.restore.

    Raises KeyError, TypeError, ValueError for a foreign state.
    """
    now_s = host.now_s()
    if host.event_log is not None:
        host.event_log.restored(snapshot.state, now_s, fresh_lineage)
    restore(host.machine, snapshot.state, now_s, fresh_lineage)
    await asyncio.to_thread(host.shards.load, snapshot.shards, host.machine.state.step)
    host.ready.set()
