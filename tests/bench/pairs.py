"""Alternating runs of peers, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# OpenMP's threads go on spinning for so long after a parallel loop, and hold a core meanwhile.
SPIN_S_MAX = 0.03


@dataclass(frozen=True)
class Figure:
    """One peer's median time and the median of its ratios to the first peer of the same turn."""

    name: str
    median_ms: float
    ratio: float

    def __str__(self) -> str:
        return f"{self.name:<34} {self.median_ms:10.2f} ms   {self.ratio:6.2f} x the first"


@dataclass(frozen=True)
class Claim:
    """A ratio and what is expected of it: at most, or at least, the bound."""

    name: str
    ratio: float
    bound: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    def __str__(self) -> str:
        sense = "at most" if self.at_most else "at least"
        return f"{self.name}: {self.ratio:.2f}, expected {sense} {self.bound:g}{'' if self.holds else '   MISSED'}"


@dataclass(frozen=True)
class Turns:
    """Seconds of every peer by turn."""

    times_s: dict[str, list[float]]

    def figures(self) -> list[Figure]:
        """Each peer against the first."""
        first = next(iter(self.times_s))
        return [Figure(name, self.median_s(name) * 1e3, self.ratio(name, first)) for name in self.times_s]

    def median_s(self, name: str) -> float:
        """One peer's."""
        return statistics.median(self.times_s[name])

    def ratio(self, name: str, other: str) -> float:
        """Median over the turns of one peer's time over another's."""
        pairs = zip(self.times_s[name], self.times_s[other], strict=True)
        return statistics.median(mine / measure for mine, measure in pairs)


def turns(peers: dict[str, Callable[[], object]], rounds: int) -> Turns:
    """Run every peer once per round, after one round that does not count. The first peer is the measure.

    Each peer starts once the others' threads have stopped spinning, and each timed run follows one by the same peer, so
    that caches are its own.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    order = list(peers.items())
    for turn in range(rounds + 1):
        order = [*order[1:], order[0]]
        for name, run in order:
            time.sleep(SPIN_S_MAX)
            run()
            started_s = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - started_s)
    return Turns(times)


def alternate(peers: dict[str, Callable[[], object]], rounds: int) -> list[Figure]:
    """The figures of turns()."""
    return turns(peers, rounds).figures()
