"""One shard: a range of pieces with its parameters, slots and staged gradients, and the two phases of a round.

Prepare and Apply are idempotent by step: a shard already past a step says done. Apply without Prepare reduces and steps
in one pass; after Prepare it steps on the reduced gradient. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from optimdpb.errors import Refused
from optimdpb.specs import Optimizer

from optimd_server.core.effects import Contribution
from optimd_server.optimizers import rule_for
from optimd_server.optimizers.kernels import TILE_ELEMENTS, Float32s, Float64s, piece_squares, reduce_blocks
from optimd_server.state.pieces import Int64s, blocks_of

# Runs work(thread, threads) on every thread of the runtime and waits for all.
RunOnThreads = Callable[[Callable[[int, int], None]], None]


class Shard:
    """Elements bounds[0] to bounds[-1] of a job. `scratch` rows serve one thread each.

    Owns its memory. `parameters` is (n,), `slots` (slot, n), both float32 and changed in place by apply() alone.
    """

    def __init__(self, optimizer: Optimizer, bounds: Int64s, threads_max: int) -> None:
        self.rule = rule_for(optimizer)
        self.optimizer = optimizer
        self.element_start, self.element_stop = int(bounds[0]), int(bounds[-1])
        elements = self.element_stop - self.element_start
        self.parameters: Float32s = np.zeros(elements, np.float32)
        self.slots: Float32s = np.zeros((len(self.rule.slots), elements), np.float32)
        self.step = 0
        self._pieces = bounds - bounds[0]
        self._blocks = blocks_of(elements)
        self._scratch = np.empty((threads_max, TILE_ELEMENTS), np.float32)
        self._staged: dict[tuple[str, int], Float32s] = {}
        self._free: list[Float32s] = []
        self._reduced: Float32s | None = None
        self._prepared_step = -1

    @property
    def elements(self) -> int:
        """Number of elements held."""
        return self.element_stop - self.element_start

    def stage(self, worker: str, epoch: int) -> Float32s:
        """The buffer for this epoch's gradient over the shard, valid until drop(). Its contents are undefined."""
        buffer = self._staged.get((worker, epoch))
        if buffer is None:
            buffer = self._free.pop() if self._free else np.empty(self.elements, np.float32)
            self._staged[worker, epoch] = buffer
        return buffer

    def drop(self, worker: str, epoch: int) -> None:
        """Take the epoch's buffer back. Dropping nothing is harmless."""
        buffer = self._staged.pop((worker, epoch), None)
        if buffer is not None:
            self._free.append(buffer)

    def prepare(self, step: int, contributions: Sequence[Contribution], run: RunOnThreads) -> Float64s:
        """Reduce the named gradients and return one sum of squares for each piece. Changes no parameter or slot."""
        if self._reduced is None:
            self._reduced = np.empty(self.elements, np.float32)
        reduced, sums = self._reduced, np.zeros(len(self._pieces) - 1, np.float64)
        addresses, scales = self._sources(contributions)

        def reduce(thread: int, threads: int) -> None:
            reduce_blocks(reduced, addresses, scales, self._blocks, thread, threads, self._scratch[thread])

        def measure(thread: int, threads: int) -> None:
            first, last = len(sums) * thread // threads, len(sums) * (thread + 1) // threads
            piece_squares(reduced, self._pieces, first, last, sums)

        run(reduce)
        run(measure)
        self._prepared_step = step
        return sums

    def apply(
        self,
        step: int,
        learning_rate: float,
        clip_factor: float,
        rule_count: int,
        contributions: Sequence[Contribution],
        run: RunOnThreads,
    ) -> None:
        """Update parameters and slots from `step` to step + 1, in place."""
        if self.step == step + 1:
            return
        assert self.step == step, f"apply({step}) on a shard at step {self.step}"
        if self._prepared_step == step and self._reduced is not None:
            addresses, scales = _address(self._reduced), np.ones(1, np.float32)
        else:
            addresses, scales = self._sources(contributions)
        factor = np.float32(clip_factor)
        scalars = np.array([self.rule.scalars(self.optimizer, rule_count, learning_rate)], np.float32)

        def update(thread: int, threads: int) -> None:
            self.rule.step(
                self.parameters,
                self.slots,
                addresses,
                scales,
                factor,
                self._blocks,
                thread,
                threads,
                self._scratch[thread],
                scalars,
            )

        run(update)
        self.step = step + 1
        self._prepared_step = -1

    def abort(self, step: int) -> None:
        """Forget what prepare() made for a step."""
        if self._prepared_step == step:
            self._prepared_step = -1

    def _sources(self, contributions: Sequence[Contribution]) -> tuple[np.ndarray, Float32s]:
        missing = [part.worker for part in contributions if (part.worker, part.epoch) not in self._staged]
        if missing:
            raise Refused("INTERNAL", f"staged gradients of {', '.join(missing)} are gone")
        buffers = [self._staged[part.worker, part.epoch] for part in contributions]
        addresses = np.array([buffer.ctypes.data for buffer in buffers], np.uint64)
        return addresses, np.array([part.scale for part in contributions], np.float32)


def _address(array: Float32s) -> np.ndarray:
    return np.array([array.ctypes.data], np.uint64)
