"""Work that goes on to its end when the call that asked for it is given up: a thread cannot be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(lock: asyncio.Lock, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the work returns. The lock is held from its start to its end, also if the caller is cancelled meanwhile."""
    await lock.acquire()

    def end(task: asyncio.Task[T]) -> None:
        lock.release()
        if not task.cancelled():
            task.exception()  # heard, also if the caller has gone: else asyncio reports it as a defect

    task = asyncio.get_running_loop().create_task(work())
    task.add_done_callback(end)
    return await asyncio.shield(task)
