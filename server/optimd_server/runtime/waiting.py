"""Calls that wait for the outcome of a push."""

from __future__ import annotations

import asyncio

from optimd_server.core.effects import Outcome

# Worker, epoch, seq.
Key = tuple[str, int, int]


class Waiting:
    """Of one job. Use it on the event loop alone."""

    def __init__(self) -> None:
        # Of each push in the order they came.
        self._waiters: dict[Key, dict[asyncio.Future[Outcome], None]] = {}

    async def wait(self, key: Key, wait_s: float) -> Outcome | None:
        """The outcome; None if it has not come in time, or once end() was called."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(key, {})
        waiters[waiter] = None
        try:
            async with asyncio.timeout(wait_s):
                return await waiter
        except TimeoutError:
            return None
        finally:
            waiters.pop(waiter, None)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]

    def answer(self, key: Key, outcome: Outcome) -> None:
        """It is there: so are those who wait for it."""
        for waiter in self._waiters.pop(key, ()):
            if not waiter.done():
                waiter.set_result(outcome)

    def end(self) -> None:
        """Let every call go on now."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(TimeoutError())
        self._waiters.clear()
