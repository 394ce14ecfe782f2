"""One shard: a range of the job's elements as flat slabs, and the two commands that close a round on it.

prepare() reduces and measures and changes no state; apply() steps parameters and slots. Both are idempotent by step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_BLOCK_ELEMENTS
from optimdpb.errors import Refused
from optimdpb.specs import Layout

from optimd_server.core.effects import Apply, Contribution, Prepare
from optimd_server.optimizers import NO_ROW, Plan
from optimd_server.optimizers.compensation import compensate_blocks
from optimd_server.optimizers.gradients import (
    FLOAT32,
    INT8,
    Sources,
    reduce_and_scan_blocks,
    reduce_blocks,
)
from optimd_server.optimizers.kernels import BLOCK_ELEMENTS, Float32s, Float64s, magnitude_max
from optimd_server.optimizers.loops import piece_squares
from optimd_server.state.bulk import RunOnThreads
from optimd_server.state.past import PastVersions
from optimd_server.state.pieces import Int64s, blocks_of, piece_bounds, runs_of

LINE_BYTES = 64
FLOAT32_BYTES = 4
# What a worker sent: float32, or bfloat16 as uint16.
Gradient = NDArray[np.float32] | NDArray[np.uint16]
# Where a shard's first element lies, in which form (see gradients.Sources), and what keeps it alive.
Staged = tuple[int, int, NDArray[Any]]


class Shard:
    """Elements bounds[0] to bounds[-1] of a job; bounds are those of its pieces.

    Owns its memory. `parameters` is (n,), `slots` (slot, n), both float32 and changed in place by apply() alone.
    delay: (lambda, versions kept) of delay compensation, None for none. memory: zeros of the whole job, whose own part
    becomes `parameters`; None for memory of its own.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        bounds: Int64s,
        threads_max: int,
        delay: tuple[float, int] | None = None,
        memory: Float32s | None = None,
    ) -> None:
        self.rule = plan.rule
        self.element_start, self.element_stop = int(bounds[0]), int(bounds[-1])
        elements = self.element_stop - self.element_start
        span = self.element_start, self.element_stop
        self.parameters = slab(elements) if memory is None else memory[slice(*span)]
        self.slots = slab(len(self.rule.slots) * elements).reshape(len(self.rule.slots), elements)
        self.step = 0
        self._pieces = bounds - bounds[0]
        first_piece = int(np.searchsorted(piece_bounds(layout), bounds[0]))
        self._piece_rows = plan.piece_rows()[first_piece : first_piece + len(bounds) - 1]
        self._blocks = blocks_of(runs_of(layout, plan.tensor_rows), *span)
        self._buffer_blocks = blocks_of(runs_of(layout, [0 if b else NO_ROW for b in plan.buffers]), *span)
        self._scratch = np.empty((threads_max, BLOCK_ELEMENTS), np.float32)
        self._staged: dict[tuple[str, int], Staged] = {}
        self._wholes: dict[tuple[str, int], Float32s] = {}
        self._free: list[Float32s] = []
        self._reduced: Float32s | None = None
        # The step, and what of, that it is the reduction of.
        self._reduced_for: tuple[int, tuple[Contribution, ...]] | None = None
        self._is_finite = True
        self._kept: tuple[Float32s, ...] = ()
        self._delay_strength = np.float32(delay[0] if delay else 0.0)
        self._past = PastVersions(delay[1], elements) if delay else None

    @property
    def elements(self) -> int:
        """Number of elements held."""
        return self.element_stop - self.element_start

    @functools.cached_property
    def trains_all(self) -> bool:
        """Whether every element is trained: no buffers, nothing frozen."""
        return int((self._blocks[:, 1] - self._blocks[:, 0]).sum()) == self.elements

    @property
    def vectors(self) -> tuple[Float32s, ...]:
        """Parameters, then each slot: the slabs themselves."""
        return self.parameters, *self.slots

    def stage(self, worker: str, epoch: int, dtype: DTypeLike = np.float32) -> Gradient:
        """The buffer for this epoch's gradient over the shard, valid until drop(). Its contents are undefined.

        dtype: float32, or uint16 for bfloat16. Staging again gives the same memory.
        """
        self.drop(worker, epoch)
        whole = self._free.pop() if self._free else slab(self.elements)
        self._wholes[worker, epoch] = whole
        gradient: Gradient = whole.view(dtype)[: self.elements]
        self._staged[worker, epoch] = address_of(gradient), gradient.itemsize, gradient
        return gradient

    def adopt(self, worker: str, epoch: int, gradient: Float32s) -> None:
        """Read this epoch's gradient, of the whole job, where it lies; it must stay as it is until drop()."""
        self.drop(worker, epoch)
        own = gradient[self.element_start : self.element_stop]
        self._staged[worker, epoch] = address_of(own), FLOAT32, own

    def adopt_blocks(self, worker: str, epoch: int, payload: NDArray[np.uint8]) -> None:
        """As adopt(), of blocks of int8."""
        self.drop(worker, epoch)
        block, phase = divmod(self.element_start, INT8_BLOCK_ELEMENTS)
        self._staged[worker, epoch] = address_of(payload) + block * INT8_BLOCK_BYTES, INT8 + phase, payload

    def drop(self, worker: str, epoch: int) -> None:
        """Forget the epoch's gradient; take its buffer back if it is one of ours. Dropping nothing is harmless."""
        self._staged.pop((worker, epoch), None)
        reduced_for = self._reduced_for
        if reduced_for and any((part.worker, part.epoch) == (worker, epoch) for part in reduced_for[1]):
            self._reduced_for = None
        whole = self._wholes.pop((worker, epoch), None)
        if whole is not None:
            self._free.append(whole)

    @property
    def buffers(self) -> int:
        """Gradients that there is memory for: staged, or free for reuse."""
        return len(self._wholes) + len(self._free)

    @property
    def free_buffers(self) -> int:
        """Of them, free for reuse."""
        return len(self._free)

    def trim(self) -> None:
        """Give buffers that wait for reuse back to the system."""
        self._free.clear()

    def free(self) -> None:
        """Keep parameters and slots alone."""
        for held in (self._staged, self._wholes, self._free):
            held.clear()
        self._reduced, self._reduced_for, self._kept = None, None, ()
        if self._past is not None:
            self._past.clear()

    def prepare(self, command: Prepare, run: RunOnThreads) -> Float64s:
        """Sums over each piece, (1 or 2, piece): squares of the reduced gradient, or the rule's own sums."""
        sources = self._reduce(command, run)
        measure, scalars, limits = self.rule.measure, command.scalars, command.limits
        pieces, rows, count = self._pieces, self._piece_rows, len(self._pieces) - 1
        sums = np.zeros((1 if scalars is None else 2, count), np.float64)

        def work(thread: int, first: int, last: int) -> None:
            scratch = self._scratch[thread]
            if scalars is None:
                piece_squares(*sources, pieces, first, last, scratch, sums[0])
            else:
                assert measure is not None, f"{self.rule.spec_class.__name__} has nothing to measure"
                slabs = self.parameters, self.slots
                measure(*slabs, *sources, limits, pieces, rows, first, last, scratch, scalars, sums)

        run(work, count)
        return sums

    def foresight(self, parts: tuple[Contribution, ...], scanned: Sequence[int]) -> Callable[[RunOnThreads], Float64s]:
        """What reduces the gradients of these parts before anybody asked, and keeps them alive until it has run.

        It returns the largest |element| of those `scanned`, whose form is float32. trains_all must hold, and neither
        prepare() nor apply() run meanwhile. Nothing comes of the reduction without foreseen().
        """
        staged = [self._staged[part.worker, part.epoch] for part in parts]
        sources = _sources_of(staged, [part.scale for part in parts])
        reduced, places = self._room_for_reduced(), np.array(scanned, np.int64)
        largest = np.zeros((len(self._scratch), len(places)), np.float64)

        def work(thread: int, first: int, last: int) -> None:
            scratch = self._scratch[thread]
            reduce_and_scan_blocks(reduced, *sources, places, self._blocks, first, last, scratch, largest[thread])

        def run_on(run: RunOnThreads) -> Float64s:
            run(work, len(self._blocks))
            assert len(staged) == len(parts), "they live until here"
            found: Float64s = largest.max(axis=0)
            return found

        return run_on

    def foreseen(self, step: int, parts: tuple[Contribution, ...]) -> None:
        """What was reduced last is the reduction of this step, if its round is made of just these parts."""
        self._reduced_for = step, parts

    def make_room(self, command: Apply) -> None:
        """Take what memory apply() needs beside the slabs. Raises MemoryError, nothing changed."""
        if self._is_delayed(command) and self._reduced is None:
            self._reduced = slab(self.elements)
        if self._past is not None and self.step == command.step:
            self._past.make_room()

    def apply(self, command: Apply, run: RunOnThreads) -> bool:
        """Update parameters and slots from command.step to command.step + 1, in place.

        Returns whether every parameter that was written is finite; of an update that was made before, the same again.
        """
        step = command.step
        if self.step == step + 1:
            return self._is_finite
        assert self.step == step, f"apply({step}) on a shard at step {self.step}"
        sources = self._reduce(command, run) if self._is_delayed(command) else self._sources(command)
        if self._past is not None:
            self._past.keep(step, self.parameters)
        slabs, scalars, limits = (self.parameters, self.slots), command.scalars, command.limits
        largest: list[float] = []

        def update(thread: int, first: int, last: int) -> None:
            rows = self._blocks, first, last, self._scratch[thread]
            largest.append(self.rule.step(*slabs, *sources, limits, *rows, scalars))

        run(update, len(self._blocks))
        if len(self._buffer_blocks):
            shares = self._staged_sources([(part, part.share) for part in command.contributions])
            run(self._reducer(self.parameters, shares, self._buffer_blocks), len(self._buffer_blocks))
            largest += [magnitude_max(self.parameters[start:stop]) for start, stop, _ in self._buffer_blocks]
        self.step = step + 1
        self._reduced_for = None
        self._is_finite = math.isfinite(max(largest, default=0.0))
        return self._is_finite

    def keep(self) -> None:
        """Put parameters and slots aside; nothing may be applied meanwhile. Raises MemoryError."""
        self._kept = tuple(vector.copy() for vector in self.vectors)

    def drop_kept(self) -> None:
        """Free what keep() put aside."""
        self._kept = ()

    def put_back(self, step: int) -> None:
        """Parameters and slots are again as keep() found them, at `step`."""
        for vector, kept in zip(self.vectors, self._kept, strict=True):
            np.copyto(vector, kept)
        self._kept = ()
        self.step, self._reduced_for = step, None
        if self._past is not None:
            self._past.clear()

    def _reduce(self, command: Prepare | Apply, run: RunOnThreads) -> Sources:
        """Reduce the named gradients once for a step, unless there is nothing to reduce."""
        sources = self._sources(command)  # of a second prepare() it is the reduction itself
        delayed = self._is_delayed(command) and not self._is_reduced(command)
        if not delayed and sources.scales.tolist() == [1.0] and sources.forms[0] == FLOAT32:
            return sources
        reduced = self._room_for_reduced()
        if delayed:
            self._compensate(command.contributions[0], reduced, run)
        else:
            run(self._reducer(reduced, sources, self._blocks), len(self._blocks))
        self._reduced_for = command.step, command.contributions
        return self._sources(command)

    def _room_for_reduced(self) -> Float32s:
        """What is in it is no reduction any more."""
        self._reduced_for = None
        if self._reduced is None:
            self._reduced = slab(self.elements)
        return self._reduced

    def _is_reduced(self, command: Prepare | Apply) -> bool:
        return self._reduced_for == (command.step, command.contributions)

    def _is_delayed(self, command: Prepare | Apply) -> bool:
        """Whether the round's gradient, one alone then, is to be compensated for its delay."""
        return self._past is not None and command.contributions[0].base_step < command.step

    def _compensate(self, part: Contribution, target: Float32s, run: RunOnThreads) -> None:
        """Write s_0 g_0' to `target`."""
        assert self._past is not None
        base, scale = self._past.at(part.base_step), np.float32(part.scale)
        run(self._reducer(target, self._staged_sources([(part, 1.0)]), self._blocks), len(self._blocks))

        def work(_: int, first: int, last: int) -> None:
            compensate_blocks(target, scale, self._delay_strength, self.parameters, base, self._blocks, first, last)

        run(work, len(self._blocks))

    def _reducer(self, target: Float32s, sources: Sources, blocks: Int64s) -> Callable[[int, int, int], None]:
        return lambda thread, first, last: reduce_blocks(target, *sources, blocks, first, last, self._scratch[thread])

    def _sources(self, command: Prepare | Apply) -> Sources:
        """What the gradient of a step is read from: its reduction if there is one, else what is staged."""
        if self._is_reduced(command) and self._reduced is not None:
            return _sources_of([(address_of(self._reduced), FLOAT32, self._reduced)], [1.0])
        return self._staged_sources([(part, part.scale) for part in command.contributions])

    def _staged_sources(self, parts: Sequence[tuple[Contribution, float]]) -> Sources:
        missing = [part.worker for part, _ in parts if (part.worker, part.epoch) not in self._staged]
        if missing:
            raise Refused("INTERNAL", f"staged gradients of {', '.join(missing)} are gone")
        return _sources_of([self._staged[part.worker, part.epoch] for part, _ in parts], [scale for _, scale in parts])


def slab(elements: int) -> Float32s:
    """Zeros from the start of a cache line on: vectors that straddle two lines take up to a tenth longer to stream."""
    raw = np.zeros(elements * FLOAT32_BYTES + LINE_BYTES, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE_BYTES
    return raw[start : start + elements * FLOAT32_BYTES].view(np.float32)


def address_of(array: NDArray[Any]) -> int:
    """Of its first element. ndarray.ctypes would leave a reference cycle behind for every call."""
    address: int = array.__array_interface__["data"][0]
    return address


def _sources_of(staged: Sequence[Staged], scales: Sequence[float]) -> Sources:
    addresses = np.array([address for address, _, _ in staged], np.uint64)
    return Sources(addresses, np.array(scales, np.float32), np.array([form for _, form, _ in staged], np.int64))
