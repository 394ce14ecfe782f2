"""Gradients that wait for a scan are taken together as soon as the round will be made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from optimd_server.core.effects import Contribution
from optimd_server.core.events import Push, Version
from optimd_server.runtime.scans import Scans
from optimd_server.state import SharedGradient


class Shards:
    """Stands for ShardGroup; notes what is asked."""

    trains_all = True

    def __init__(self, no_room: bool = False) -> None:
        self.foreseen_parts: list[list[str]] = []
        self.no_room = no_room
        self.meanwhile: Callable[[], None] = lambda: None

    def foresight(self, parts: Sequence[Contribution], scanned: Sequence[int]) -> Callable[[Any], list[float]]:
        if self.no_room:
            raise MemoryError

        def work(_run: object) -> list[float]:
            self.meanwhile()
            return [10.0 + place for place in scanned]

        return work

    def foreseen(self, step: int, parts: Sequence[Contribution]) -> None:
        self.foreseen_parts.append([part.worker for part in parts])


def run_inline(work: Callable[[int, int, int], None], items: int) -> None:
    work(0, 0, items)


class Round:
    """Awaits workers until their scans are over, as the core does."""

    def __init__(self, *workers: str, shards: Shards | None = None) -> None:
        self.awaited = set(workers)
        self.shards = shards or Shards()
        self.found: dict[str, float] = {}
        self.gradients: dict[str, SharedGradient] = {}
        still = asyncio.Lock()
        self.scans = Scans(self.shards, run_inline, still, self._foreseen, lambda: 7)  # type: ignore[arg-type]

    def _foreseen(self, pushes: Sequence[Push]) -> tuple[Contribution, ...]:
        if {push.worker for push in pushes} != self.awaited:
            return ()
        return tuple(Contribution(name, 1, 1, 1.0, 1.0, 7) for name in sorted(self.awaited))

    async def push(self, worker: str, value: float, *, closed: bool = False) -> None:
        gradient = SharedGradient(worker, 1, np.full(4, value, np.float32))
        gradient.closed = closed
        self.gradients[worker] = gradient
        self.found[worker] = await self.scans.scan(Push(worker, 1, 1, Version("l", 7), 1.0, None), gradient)
        self.awaited.discard(worker)


def test_those_that_come_at_once_are_one_pass() -> None:
    async def main() -> None:
        opened = Round("a", "b", "c")
        await asyncio.gather(opened.push("c", 3.0), opened.push("a", 1.0), opened.push("b", 2.0))
        assert opened.shards.foreseen_parts == [["a", "b", "c"]]
        assert opened.found == {"a": 10.0, "b": 11.0, "c": 12.0}
        assert opened.scans.together == 1

    asyncio.run(main())


def test_those_that_come_during_a_scan_are_one_pass_behind_it() -> None:
    async def main() -> None:
        opened = Round("a", "b", "c")
        first = asyncio.create_task(opened.push("a", 1.0))
        while opened.scans._waiting or opened.scans._task is None:
            await asyncio.sleep(0)
        await asyncio.gather(first, opened.push("b", 2.0), opened.push("c", 3.0))
        assert opened.found == {"a": 1.0, "b": 10.0, "c": 11.0}
        assert opened.shards.foreseen_parts == [["b", "c"]]

    asyncio.run(main())


def test_each_by_itself_where_more_is_awaited_or_there_is_no_room() -> None:
    async def main() -> None:
        for opened in (Round("a", "b", "other"), Round("a", "b", shards=Shards(no_room=True))):
            await asyncio.gather(opened.push("a", 1.0), opened.push("b", np.inf))
            assert opened.found == {"a": 1.0, "b": np.inf}
            assert opened.scans.together == 0

    asyncio.run(main())


def test_nothing_is_kept_of_a_gradient_that_another_attempt_replaced() -> None:
    async def main() -> None:
        opened = Round("a", "b")
        await asyncio.gather(opened.push("a", 1.0), opened.push("b", 2.0, closed=True))
        assert opened.shards.foreseen_parts == []
        assert opened.found == {"a": 1.0, "b": 2.0}

    asyncio.run(main())


def test_nothing_is_kept_if_one_is_replaced_during_the_pass() -> None:
    async def main() -> None:
        opened = Round("a", "b")
        opened.shards.meanwhile = lambda: setattr(opened.gradients["b"], "closed", True)
        await asyncio.gather(opened.push("a", 1.0), opened.push("b", 2.0))
        assert opened.shards.foreseen_parts == []
        assert opened.scans.together == 0

    asyncio.run(main())


def test_a_call_given_up_is_not_scanned_for() -> None:
    async def main() -> None:
        opened = Round("a", "b", "c")
        gone = asyncio.create_task(opened.push("c", 3.0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(opened.push("a", 1.0), opened.push("b", 2.0), gone, return_exceptions=True)
        assert opened.found == {"a": 1.0, "b": 2.0}
        assert opened.scans._task is None

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError("a disk"), MemoryError(), RuntimeError("no thread")], ids=repr)
def test_a_pass_that_fails_ends_the_calls_that_wait_for_it_and_no_later_one(error: Exception) -> None:
    async def main() -> None:
        opened = Round("a", "b")

        def fail() -> None:
            raise error

        opened.shards.meanwhile = fail
        results = await asyncio.gather(opened.push("a", 1.0), opened.push("b", 2.0), return_exceptions=True)
        assert results == [error, error]
        opened.shards.meanwhile = lambda: None
        await asyncio.wait_for(asyncio.gather(opened.push("a", 1.0), opened.push("b", 2.0)), 10)
        assert opened.found == {"a": 10.0, "b": 11.0}

    asyncio.run(main())


def test_a_round_that_cannot_be_foreseen_ends_the_calls_too() -> None:
    async def main() -> None:
        opened = Round("a", "b")
        opened.scans._foreseen = lambda pushes: 1 // 0  # type: ignore[assignment,return-value]
        waits = asyncio.gather(opened.push("a", 1.0), opened.push("b", 2.0), return_exceptions=True)
        results = await asyncio.wait_for(waits, 10)
        assert all(isinstance(result, RuntimeError) for result in results)
        assert opened.scans._task is None

    asyncio.run(main())
