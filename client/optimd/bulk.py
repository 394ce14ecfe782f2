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

# (target, source) of one shape.
Copy = tuple[NDArray[Any], NDArray[Any]]


def copy_all(copies: Sequence[Copy]) -> None:
    """Copy every source onto its target, converting to the target's dtype."""
    threads = min(THREADS_MAX, len(os.sched_getaffinity(0)))
    if threads == 1 or sum(target.nbytes for target, _ in copies) < THREADED_BYTES_MIN:
        for target, source in copies:
            np.copyto(target, source, casting="unsafe")
        return
    turns = list(_turns(copies))
    places = itertools.count()

    def work() -> None:
        while (place := next(places)) < len(turns):
            np.copyto(*turns[place], casting="unsafe")

    helpers = [threading.Thread(target=work, name="optimd-copy") for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()


def _turns(copies: Sequence[Copy]) -> list[Copy]:
    """The same copies in parts of at most TURN_BYTES, where arrays can be cut without a copy of their own."""
    turns: list[Copy] = []
    for target, source in copies:
        if target.nbytes <= TURN_BYTES or not (target.flags.c_contiguous and source.flags.c_contiguous):
            turns.append((target, source))
            continue
        to, of, step = target.reshape(-1), source.reshape(-1), TURN_BYTES // target.itemsize
        turns += [(to[start : start + step], of[start : start + step]) for start in range(0, to.size, step)]
    return turns
