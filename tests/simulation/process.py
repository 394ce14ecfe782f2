"""A simulated process: its fibers, and what a client takes from its machine."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.simulation.loop import Fiber, SimulatedLoop


class Process:
    """optimd.surroundings.Surroundings on simulated time. `over`: killed, or at its end."""

    def __init__(self, loop: SimulatedLoop, dice: random.Random, work: Callable[[], None]) -> None:
        self._loop = loop
        self._dice = dice
        self._frozen_until_s = 0.0
        self.over = False
        self.fibers: list[Fiber] = []
        self.program = self._start(lambda: self._run(work))

    def now_s(self) -> float:
        """See Surroundings."""
        return self._loop.time()

    def sleep(self, seconds: float) -> None:
        """See Surroundings."""
        fiber = self._loop.current
        assert fiber is not None
        fiber.sleep(seconds)

    def jitter(self) -> float:
        """See Surroundings."""
        return self._dice.random()

    def server_end(self) -> str:
        """See Surroundings."""
        return ""

    def repeat(self, every_s: float, work: Callable[[], bool], name: str) -> Callable[[], None]:
        """See Surroundings."""
        stopped = [False]

        def run() -> None:
            self.sleep(every_s)
            while not stopped[0] and work():
                self.sleep(every_s)

        self._start(run)
        return lambda: stopped.__setitem__(0, True)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self._frozen_until_s = self.now_s() + seconds
        for fiber in self.fibers:
            fiber.frozen_until_s = self._frozen_until_s

    def kill(self) -> None:
        """SIGKILL."""
        self.over = True
        for fiber in self.fibers:
            fiber.kill()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self.over = True

    def _start(self, work: Callable[[], None]) -> Fiber:
        fiber = Fiber(self._loop, work)
        fiber.frozen_until_s = self._frozen_until_s
        self.fibers = [*(fiber for fiber in self.fibers if not fiber.over), fiber]
        self._loop.call_soon(fiber.begin)
        return fiber
