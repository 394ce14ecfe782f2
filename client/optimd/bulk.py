"""Copying many bytes on a few threads: one alone does not use what the memory can give."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below it a thread costs more than it saves; one is started for each copy, so that nothing outlives a fork.
THREADED_BYTES_MIN = 16 << 20
TURN_BYTES = 4 << 20
THREADS_MAX = 4

Array = NDArray[Any]
# A vector, and arrays that fill it one behind the other.
Turn = tuple[Array, list[Array]]


def gather(target: Array, sources: Sequence[Array]) -> None:
    """Fill a vector with arrays one behind the other, converted to its dtype; some may lie there already."""
    threads = min(THREADS_MAX, len(os.sched_getaffinity(0)))
    if threads == 1 or target.nbytes < THREADED_BYTES_MIN:
        _fill(target, list(sources))
        return
    turns = _turns(target, sources)
    places = itertools.count()

    def work() -> None:
        while (place := next(places)) < len(turns):
            _fill(*turns[place])

    helpers = [threading.Thread(target=work, name="optimd-copy") for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()


def _fill(target: Array, sources: list[Array]) -> None:
    np.concatenate(sources, axis=None, out=target, casting="unsafe")


def _turns(target: Array, sources: Sequence[Array]) -> list[Turn]:
    """The same in parts of about TURN_BYTES: small arrays together, large ones cut where that needs no copy."""
    turns: list[Turn] = []
    step = TURN_BYTES // target.itemsize
    small: list[Array] = []
    start = stop = 0
    for source in sources:
        if source.size <= step or not source.flags.c_contiguous:
            small.append(source)
            stop += source.size
            if stop - start >= step:
                turns.append((target[start:stop], small))
                small, start = [], stop
            continue
        if small:
            turns.append((target[start:stop], small))
            small = []
        flat = source.reshape(-1)
        turns += [
            (target[stop + at : stop + min(at + step, flat.size)], [flat[at : at + step]])
            for at in range(0, flat.size, step)
        ]
        start = stop = stop + flat.size
    if small:
        turns.append((target[start:stop], small))
    return turns
