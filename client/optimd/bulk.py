"""Copying many bytes on a few threads: one alone does not use what the memory can give."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimdpb import machine

# Below it a thread costs more than it saves; one is started for each copy, so that nothing outlives a fork.
THREADED_BYTES_MIN = 16 << 20
TURN_BYTES = 4 << 20
THREADS_MAX = 4

Array = NDArray[Any]
# A vector, and arrays that fill it one behind the other.
Turn = tuple[Array, list[Array]]


class Copier:
    """Fills vectors that a thread of an earlier copy, cut off by an interrupt, must not write to any more."""

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []

    def gather(self, target: Array, sources: Sequence[Array]) -> None:
        """Fill a vector with arrays one behind the other, converted to its dtype; some may lie there already.

        Raises what any of its threads raises, after the last has ended.
        """
        self.stop()
        small = target.nbytes < THREADED_BYTES_MIN
        threads = 1 if small else min(THREADS_MAX, machine.cores())
        if threads == 1:
            _fill(target, list(sources))
            return
        turns, places = _turns(target, sources), itertools.count()
        self._helpers = [_Helper(turns, places) for _ in range(threads - 1)]
        try:
            for helper in self._helpers:
                helper.start()
            while (place := next(places)) < len(turns):
                _fill(*turns[place])
        finally:
            for helper in self._helpers:
                helper.stop()
        errors = [helper.error for helper in self._helpers if helper.error is not None]
        self._helpers = []
        if errors:
            raise errors[0]

    def stop(self) -> None:
        """No thread of an earlier copy writes any more."""
        for helper in self._helpers:
            helper.stop()
        self._helpers = []


class _Helper(threading.Thread):
    """Takes turns beside the thread that copies. `error`: what it raised."""

    def __init__(self, turns: Sequence[Turn], places: Iterator[int]) -> None:
        super().__init__(name="optimd-copy")
        self.error: BaseException | None = None
        self._turns, self._places = turns, places
        self._begun = self._over = False

    def run(self) -> None:
        """See Thread."""
        self._begun = True
        try:
            while not self._over and (place := next(self._places)) < len(self._turns):
                _fill(*self._turns[place])
        except BaseException as error:  # for the thread that waits
            self.error = error

    def stop(self) -> None:
        """Return once it writes no more, also if its start was cut off: it then finds that it is over."""
        self._over = True
        if self._begun:
            self.join()


def gather(target: Array, sources: Sequence[Array]) -> None:
    """Copier.gather() into a vector that nobody else gets while any thread of the copy refers to it."""
    Copier().gather(target, sources)


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
