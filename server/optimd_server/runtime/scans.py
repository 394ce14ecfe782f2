"""Scanning gradients that lie in shared memory, as many at once as have come.

A scan reads memory and does nothing else. Where the gradients that wait are all that the open round still needs, the
same pass makes the round's reduction: then they are read once, not twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from optimd_server.core.effects import Contribution
from optimd_server.core.events import Push
from optimd_server.runtime.shards import ShardGroup
from optimd_server.state import SharedGradient
from optimd_server.state.bulk import RunOnThreads, magnitude_max_on

# Turns of the event loop in which calls that are here already get so far that their gradients are scanned together.
TURNS = 3
# Fewer are scanned each by itself: the reduction that is written and read again costs as much as it saves.
TOGETHER_MIN = 2


@dataclass
class _Waiting:
    push: Push
    gradient: SharedGradient
    found: asyncio.Future[float] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, largest: float) -> None:
        """Unless its call was given up."""
        if not self.found.done():
            self.found.set_result(largest)


class Scans:
    """Of one job. Use it on the event loop alone.

    foreseen: see Rounds.foreseen; step: the job's; still: held while nothing else may work on the slabs. `together`
    counts the passes that made a reduction.
    """

    def __init__(
        self,
        shards: ShardGroup,
        run: RunOnThreads,
        still: asyncio.Lock,
        foreseen: Callable[[Sequence[Push]], tuple[Contribution, ...]],
        step: Callable[[], int],
    ) -> None:
        self.together = 0
        self._shards = shards
        self._run = run
        self._still = still
        self._foreseen = foreseen
        self._step = step
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def scan(self, push: Push, gradient: SharedGradient) -> float:
        """The largest |element| of a gradient that was adopted for this push, infinity if one is not finite."""
        waiting = _Waiting(push, gradient)
        self._waiting.append(waiting)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return await waiting.found

    async def _work(self) -> None:
        try:
            for _ in range(TURNS):
                if self._parts(self._waiting):  # nobody else is awaited
                    break
                await asyncio.sleep(0)
            while self._waiting:
                batch, self._waiting = [each for each in self._waiting if not each.found.done()], []
                await self._scan(batch)
        finally:
            self._fail(self._waiting, RuntimeError("the scans have ended"))
            self._waiting, self._task = [], None

    async def _scan(self, batch: list[_Waiting]) -> None:
        try:
            if not await self._scan_together(batch) and batch:
                batch, self._waiting = batch[:1], batch[1:] + self._waiting
                values = batch[0].gradient.values
                batch[0].settle(await asyncio.to_thread(magnitude_max_on, values, self._run))
                await asyncio.sleep(0)  # its call commits now: the round awaits one less
        except Exception as error:  # of the server's own: every call that waits for it ends
            self._fail(batch, error)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        for each in batch:
            if not each.found.done():
                each.found.set_exception(error)

    async def _scan_together(self, batch: list[_Waiting]) -> bool:
        """One pass for all, if the open round will be made of just these and what it has; else False."""
        if len(batch) < TOGETHER_MIN or not self._shards.trains_all:
            return False
        async with self._still:
            parts = self._parts(batch)
            if not parts:
                return False
            places, step = {part.worker: place for place, part in enumerate(parts)}, self._step()
            try:
                work = self._shards.foresight(parts, [places[each.push.worker] for each in batch])
            except MemoryError:  # there is room for the gradients, and none for their sum
                return False
            largest = await asyncio.to_thread(work, self._run)
            # Another attempt may bring other numbers under the same seq.
            if not any(each.gradient.closed for each in batch):
                self._shards.foreseen(step, parts)
                self.together += 1
        for each, found in zip(batch, largest, strict=True):
            each.settle(found)
        return True

    def _parts(self, batch: list[_Waiting]) -> tuple[Contribution, ...]:
        """What the round will be made of, if it takes all of the batch and nothing more."""
        if any(each.gradient.closed for each in batch):
            return ()
        return self._foreseen([each.push for each in batch])
