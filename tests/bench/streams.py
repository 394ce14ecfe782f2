"""A kernel that moves the memory of an update and computes next to nothing: what no update can beat by much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from optimd_server.optimizers.kernels import BLOCK_ELEMENTS
from optimd_server.runtime.threads import KernelThreads

Float32s = NDArray[np.float32]


@numba.njit(nogil=True, cache=True)
def _subtract(w: Float32s, g: Float32s) -> None:
    for i in range(w.size):
        w[i] = w[i] - g[i]


@numba.njit(nogil=True, cache=True)
def _subtract_and_flip_one(w: Float32s, m: Float32s, g: Float32s) -> None:
    for i in range(w.size):
        w[i] = w[i] - g[i]
        m[i] = -m[i]


@numba.njit(nogil=True, cache=True)
def _subtract_and_flip_two(w: Float32s, m: Float32s, v: Float32s, g: Float32s) -> None:
    for i in range(w.size):
        w[i] = w[i] - g[i]
        m[i] = -m[i]
        v[i] = -v[i]


@numba.njit(nogil=True, cache=True)
def _move(parameters: Any, slots: Any, gradients: Any, first: int, last: int) -> None:
    for start in range(first * BLOCK_ELEMENTS, min(last * BLOCK_ELEMENTS, parameters.size), BLOCK_ELEMENTS):
        stop = min(start + BLOCK_ELEMENTS, parameters.size)
        w = parameters[start:stop]
        for k in range(1, len(gradients)):
            _subtract(w, gradients[k][start:stop])
        if slots.shape[0] == 2:
            _subtract_and_flip_two(w, slots[0, start:stop], slots[1, start:stop], gradients[0][start:stop])
        else:
            _subtract_and_flip_one(w, slots[0, start:stop], gradients[0][start:stop])


class Streams:
    """Reads gradients, parameters and slots and writes parameters and slots, in the order in which a kernel does."""

    def __init__(self, gradients: Sequence[Float32s], slots: int, threads: int) -> None:
        self._gradients = tuple(gradients)
        self._parameters = np.zeros_like(gradients[0])
        self._slots = np.zeros((slots, gradients[0].size), np.float32)
        self._threads = KernelThreads(threads)

    def move(self) -> None:
        """Once over everything."""
        self._threads.run(self._share, -(-self._parameters.size // BLOCK_ELEMENTS))

    def _share(self, thread: int, first: int, last: int) -> None:
        _move(self._parameters, self._slots, self._gradients, first, last)

    def close(self) -> None:
        """End the threads."""
        self._threads.close()
