"""A server that ends takes nothing on; a save that was given up is heard to its end."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from optimd_server.runtime import Runtime, ServerConfig
from optimd_server.runtime.shielded import to_its_end
from optimdpb.errors import Refused
from optimdpb.specs import SGD, JobSpec, Layout, Sync, Tensor

SPEC = JobSpec(Layout((Tensor("w", (3,)),)), SGD(0.1), Sync(1))


def test_a_server_that_ends_makes_no_job_that_nobody_would_save() -> None:
    async def end() -> None:
        runtime = Runtime(ServerConfig(threads=1))
        await runtime.start()
        runtime.freeze()
        with pytest.raises(Refused) as refused:
            await runtime.create("late", SPEC, "w0")
        assert refused.value.reason == "SHUTTING_DOWN"
        assert not runtime.jobs
        await runtime.close()

    asyncio.run(end())


def test_the_failure_of_what_was_given_up_is_not_reported_as_a_defect() -> None:
    reported: list[dict[str, Any]] = []

    async def give_up() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        lock, may_fail = asyncio.Lock(), asyncio.Event()

        async def work() -> None:
            await may_fail.wait()
            raise Refused("STORAGE_FAILED", "no space")

        caller = asyncio.create_task(to_its_end(lock, work))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        assert lock.locked()
        may_fail.set()
        async with lock:  # once it has ended
            gc.collect()

    asyncio.run(give_up())
    assert reported == []
