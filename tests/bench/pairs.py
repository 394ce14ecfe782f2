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


def alternate(peers: dict[str, Callable[[], object]], rounds: int) -> list[Figure]:
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
    first = next(iter(peers))
    return [
        Figure(
            name,
            statistics.median(taken) * 1e3,
            statistics.median(mine / measure for mine, measure in zip(taken, times[first], strict=True)),
        )
        for name, taken in times.items()
    ]
