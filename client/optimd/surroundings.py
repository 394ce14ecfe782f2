"""Clock, sleep, chance and background work: what a worker takes from the machine it runs on, beside its transport."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Surroundings(Protocol):
    """Tests put a simulated twin in its place."""

    def now_s(self) -> float:
        """A monotonic clock."""

    def sleep(self, seconds: float) -> None:
        """Return after so long."""

    def jitter(self) -> float:
        """A random number, at least 0 and below 1."""

    def server_end(self) -> str:
        """How the server has ended for good, where that is known; "" else."""

    def repeat(self, every_s: float, work: Callable[[], bool], name: str) -> Callable[[], None]:
        """Call work() in the background, first after every_s, so long after each end again, until it returns False.

        Returns a function that ends it; that does not wait for a call on its way.
        """


class Machine:
    """The machine itself."""

    def now_s(self) -> float:
        """See Surroundings."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See Surroundings."""
        time.sleep(seconds)

    def jitter(self) -> float:
        """See Surroundings."""
        return random.random()

    def server_end(self) -> str:
        """See Surroundings."""
        return ""

    def repeat(self, every_s: float, work: Callable[[], bool], name: str) -> Callable[[], None]:
        """See Surroundings. A daemon thread of that name."""
        stopped = threading.Event()

        def run() -> None:
            while not stopped.wait(every_s) and work():
                pass

        threading.Thread(target=run, name=name, daemon=True).start()
        return stopped.set
