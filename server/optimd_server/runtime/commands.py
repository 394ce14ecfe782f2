"""Carries out what a core asks of its shards: here, or on threads where the vectors are large."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from optimd_server.core.effects import Apply, Keep, Prepare, PutBackKept
from optimd_server.core.events import Applied, Kept, Prepared, PutBack
from optimd_server.runtime.shards import ShardGroup
from optimd_server.state.bulk import RunOnThreads

Command = Prepare | Apply | Keep | PutBackKept
Done = Prepared | Applied | Kept | PutBack


class Commands:
    """Of one job, whose core gives one after the other. Use it on the event loop alone.

    still: held while nothing else may work on the slabs. done(event) takes what came of a command, and may give the
    next. failed(what, error, changed): a command was not carried out; `changed`, whether slabs may be half way through
    it. Neither may raise.
    """

    def __init__(
        self,
        shards: ShardGroup,
        run: RunOnThreads,
        still: asyncio.Lock,
        done: Callable[[Done], None],
        failed: Callable[[str, Exception, bool], None],
        *,
        on_threads: bool,
    ) -> None:
        self._shards = shards
        self._run = run
        self._still = still
        self._done = done
        self._failed = failed
        self._on_threads = on_threads
        self._tasks: set[asyncio.Task[None]] = set()
        self._small: deque[Command] = deque()
        self._changes = False
        self._ended = False

    def give(self, command: Command) -> None:
        """Carry it out."""
        if self._ended:
            return
        if self._on_threads:
            self._start(self._carry_out_on_threads(command))
            return
        self._small.append(command)
        if len(self._small) == 1:
            self._carry_out_small()

    def end(self, *, with_slabs: bool = False) -> None:
        """Carry out nothing more. Free the memory that only commands need; with_slabs: parameters and slots, too."""
        self._ended = True
        self._start(self._free(with_slabs))

    async def finished(self) -> None:
        """Wait until nothing is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _carry_out_small(self) -> None:
        """What comes of one may ask for the next: a loop, however many pushes wait."""
        try:
            while self._small:
                command = self._small[0]
                try:
                    event = self._carry_out(command)
                except Exception as error:
                    self._fail(command, error)
                else:
                    self._done(event)
                self._small.popleft()
        finally:
            self._small.clear()

    async def _carry_out_on_threads(self, command: Command) -> None:
        self._changes = False
        try:
            async with self._still:
                if self._ended:
                    return
                event = await asyncio.to_thread(self._carry_out, command)
        except Exception as error:
            self._fail(command, error)
        else:
            self._done(event)

    def _fail(self, command: Command, error: Exception) -> None:
        self._failed(f"{type(command).__name__} was not carried out", error, self._changes)

    def _carry_out(self, command: Command) -> Done:
        self._changes = False
        match command:
            case Prepare():
                return Prepared(command.step, self._shards.prepare(command, self._run))
            case Apply():
                self._shards.make_room(command)
                self._changes = True
                return Applied(command.step, self._shards.apply(command, self._run))
            case Keep():
                return Kept(self._shards.keep())
            case PutBackKept():
                self._changes = True
                self._shards.put_back(command.step)
                return PutBack(command.step)

    async def _free(self, with_slabs: bool) -> None:
        async with self._still:  # until then kernels may read it
            self._shards.free()
            if with_slabs:
                self._shards.shards.clear()
