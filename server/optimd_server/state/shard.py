"""One shard: a range of the job's elements as flat slabs, and the two commands that close a round on it.

prepare() reduces and measures and changes no state; apply() steps parameters and slots. Both are idempotent by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from optimdpb.errors import Refused
from optimdpb.specs import Layout

from optimd_server.core.effects import Apply, Contribution, Prepare
from optimd_server.optimizers import NO_ROW, Plan
from optimd_server.optimizers.kernels import TILE_ELEMENTS, Float32s, Float64s, UInt64s, piece_squares, reduce_blocks
from optimd_server.state.pieces import Int64s, blocks_of, piece_bounds, runs_of

# Runs work(thread, threads) on every thread of the runtime and waits for all.
RunOnThreads = Callable[[Callable[[int, int], None]], None]
Sources = tuple[UInt64s, Float32s]


class Shard:
    """Elements bounds[0] to bounds[-1] of a job; bounds are those of its pieces.

    Owns its memory. `parameters` is (n,), `slots` (slot, n), both float32 and changed in place by apply() alone.
    """

    def __init__(self, plan: Plan, layout: Layout, bounds: Int64s, threads_max: int) -> None:
        self.rule = plan.rule
        self.element_start, self.element_stop = int(bounds[0]), int(bounds[-1])
        elements = self.element_stop - self.element_start
        self.parameters: Float32s = np.zeros(elements, np.float32)
        self.slots: Float32s = np.zeros((len(self.rule.slots), elements), np.float32)
        self.step = 0
        self._pieces = bounds - bounds[0]
        first_piece = int(np.searchsorted(piece_bounds(layout), bounds[0]))
        self._piece_rows = plan.piece_rows()[first_piece : first_piece + len(bounds) - 1]
        span = self.element_start, self.element_stop
        self._blocks = blocks_of(runs_of(layout, plan.tensor_rows), *span)
        self._buffer_blocks = blocks_of(runs_of(layout, [0 if b else NO_ROW for b in plan.buffers]), *span)
        self._scratch = np.empty((threads_max, 2, TILE_ELEMENTS), np.float32)
        self._staged: dict[tuple[str, int], Float32s] = {}
        self._free: list[Float32s] = []
        self._reduced: Float32s | None = None
        self._reduced_step = -1

    @property
    def elements(self) -> int:
        """Number of elements held."""
        return self.element_stop - self.element_start

    @property
    def vectors(self) -> tuple[Float32s, ...]:
        """Parameters, then each slot: the slabs themselves."""
        return self.parameters, *self.slots

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

    def prepare(self, command: Prepare, run: RunOnThreads) -> Float64s:
        """Sums over each piece, (1 or 2, piece): squares of the reduced gradient, or the rule's own sums."""
        addresses, scales = self._reduce(command, run)
        measure, scalars, limits = self.rule.measure, command.scalars, command.limits
        pieces, rows, count = self._pieces, self._piece_rows, len(self._pieces) - 1
        sums = np.zeros((1 if scalars is None else 2, count), np.float64)

        def work(thread: int, threads: int) -> None:
            first, last, scratch = count * thread // threads, count * (thread + 1) // threads, self._scratch[thread]
            if scalars is None:
                piece_squares(addresses, scales, pieces, first, last, scratch[0], sums[0])
            else:
                assert measure is not None, f"{self.rule.spec_class.__name__} has nothing to measure"
                slabs = self.parameters, self.slots
                measure(*slabs, addresses, scales, limits, pieces, rows, first, last, scratch, scalars, sums)

        run(work)
        return sums

    def apply(self, command: Apply, run: RunOnThreads) -> None:
        """Update parameters and slots from command.step to command.step + 1, in place."""
        step = command.step
        if self.step == step + 1:
            return
        assert self.step == step, f"apply({step}) on a shard at step {self.step}"
        addresses, scales = self._sources(command)
        buffers = self._staged_sources([(part, part.share) for part in command.contributions])

        def update(thread: int, threads: int) -> None:
            turn, scratch = (thread, threads), self._scratch[thread, 0]
            slabs = self.parameters, self.slots
            self.rule.step(*slabs, addresses, scales, command.limits, self._blocks, *turn, scratch, command.scalars)
            reduce_blocks(self.parameters, *buffers, self._buffer_blocks, *turn, scratch)

        run(update)
        self.step = step + 1
        self._reduced_step = -1

    def abort(self, step: int) -> None:
        """Forget what prepare() made for a step."""
        if self._reduced_step == step:
            self._reduced_step = -1

    def _reduce(self, command: Prepare, run: RunOnThreads) -> Sources:
        """Reduce the named gradients once for a step, unless there is nothing to reduce."""
        addresses, scales = self._sources(command)  # of a second prepare() it is the reduction itself
        if len(scales) == 1 and scales[0] == 1.0:
            return addresses, scales
        reduced = self._reduced = np.empty(self.elements, np.float32) if self._reduced is None else self._reduced

        def work(thread: int, threads: int) -> None:
            reduce_blocks(reduced, addresses, scales, self._blocks, thread, threads, self._scratch[thread, 0])

        run(work)
        self._reduced_step = command.step
        return self._sources(command)

    def _sources(self, command: Prepare | Apply) -> Sources:
        """What the gradient of a step is read from: its reduction if there is one, else what is staged."""
        if self._reduced_step == command.step and self._reduced is not None:
            return np.array([self._reduced.ctypes.data], np.uint64), np.ones(1, np.float32)
        return self._staged_sources([(part, part.scale) for part in command.contributions])

    def _staged_sources(self, parts: Sequence[tuple[Contribution, float]]) -> Sources:
        missing = [part.worker for part, _ in parts if (part.worker, part.epoch) not in self._staged]
        if missing:
            raise Refused("INTERNAL", f"staged gradients of {', '.join(missing)} are gone")
        buffers = [self._staged[part.worker, part.epoch] for part, _ in parts]
        addresses = np.array([buffer.ctypes.data for buffer in buffers], np.uint64)
        return addresses, np.array([scale for _, scale in parts], np.float32)
