"""Simple passes over whole vectors, on as many threads as there are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from optimd_server.optimizers.kernels import Float32s, magnitude_max

# run(work, items) calls work(thread, start, stop) for runs that cover 0 to items, each once, and waits for all.
RunOnThreads = Callable[[Callable[[int, int, int], None], int], None]

# What threads take turns by: large enough that a turn's own cost is nothing.
TURN_ELEMENTS = 64 * 1024


def magnitude_max_on(values: Float32s, run: RunOnThreads) -> float:
    """As magnitude_max()."""
    found: list[float] = []

    def work(_: int, first: int, last: int) -> None:
        found.append(magnitude_max(values[first * TURN_ELEMENTS : last * TURN_ELEMENTS]))

    run(work, -(-values.size // TURN_ELEMENTS))
    return max(found, default=0.0)


def copy_on(target: Float32s, source: Float32s, run: RunOnThreads) -> None:
    """Copy a vector onto another of the same size."""

    def work(_: int, first: int, last: int) -> None:
        turn = slice(first * TURN_ELEMENTS, last * TURN_ELEMENTS)
        np.copyto(target[turn], source[turn])

    run(work, -(-source.size // TURN_ELEMENTS))
