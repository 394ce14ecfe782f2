"""A kernel that moves the memory of an update and computes next to nothing: what no update can beat."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from optimd_server.optimizers.kernels import BLOCK_ELEMENTS, TILE_ELEMENTS
from optimd_server.runtime.threads import KernelThreads

Float32s = NDArray[np.float32]


@numba.njit(nogil=True, cache=True)
def _flip(values: Float32s) -> None:
    for i in range(values.size):
        values[i] = -values[i]


@numba.njit(nogil=True, cache=True)
def _move(parameters: Any, slots: Any, gradient: Any, first_block: int, stride: int) -> None:
    for block in range(first_block * BLOCK_ELEMENTS, parameters.size, stride * BLOCK_ELEMENTS):
        for start in range(block, min(block + BLOCK_ELEMENTS, parameters.size), TILE_ELEMENTS):
            stop = min(start + TILE_ELEMENTS, parameters.size)
            w, g = parameters[start:stop], gradient[start:stop]
            for i in range(w.size):
                w[i] = w[i] - g[i]
            for slot in range(slots.shape[0]):
                _flip(slots[slot, start:stop])


class Streams:
    """Reads gradient, parameters and slots and writes parameters and slots, in the order in which a kernel does."""

    def __init__(self, gradient: Float32s, slots: int, threads: int) -> None:
        self._gradient = gradient
        self._parameters = np.zeros_like(gradient)
        self._slots = np.zeros((slots, gradient.size), np.float32)
        self._threads = KernelThreads(threads)

    def move(self) -> None:
        """Once over everything."""
        work = lambda thread, threads: _move(self._parameters, self._slots, self._gradient, thread, threads)  # noqa: E731
        self._threads.run(work)

    def close(self) -> None:
        """End the threads."""
        self._threads.close()
