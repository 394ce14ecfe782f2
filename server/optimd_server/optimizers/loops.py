"""From a rule's arithmetic on a run of elements to the kernels that the runtime calls.

All kernels are serial, hold no lock and release the GIL; the runtime hands out runs of blocks to its threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from optimd_server.optimizers.gradients import Sources, UInt64s, clipped, is_one_gradient, is_unclipped, summed
from optimd_server.optimizers.kernels import (
    LANES,
    PIECE_ELEMENTS,
    Float32s,
    Float64s,
    Int64s,
    kernel,
    lane_dot,
    magnitude,
)


@kernel
def piece_squares(
    addresses: UInt64s,
    scales: Float32s,
    forms: Int64s,
    pieces: Int64s,
    first: int,
    last: int,
    scratch: Float32s,
    sums: Float64s,
) -> None:
    """sums[p] = sum of squares of the reduced gradient over piece p = pieces[p] to pieces[p + 1], first <= p < last."""
    sources = Sources(addresses, scales, forms)
    lanes = np.zeros(LANES, np.float64)
    for piece in range(first, last):
        gradient = summed(sources, pieces[piece], pieces[piece + 1], scratch)
        sums[piece] = lane_dot(gradient, gradient, lanes)


def stepper(update: Callable[..., np.uint32]) -> Callable[..., float]:
    """The kernel Rule.step of a rule that is given block by block.

    update(w, gradient, slots, start, stop, row): changes w, elements start to stop of the parameters, and
    slots[:, start:stop] in place, in one pass; gradient is reduced and clipped, row holds the scalars. Returns the
    maximum by larger() of what it wrote to w.
    """

    @kernel
    def step(
        parameters: Float32s,
        slots: Float32s,
        addresses: UInt64s,
        scales: Float32s,
        forms: Int64s,
        limits: Float32s,
        blocks: Int64s,
        first: int,
        last: int,
        scratch: Float32s,
        scalars: Float32s,
    ) -> float:
        sources = Sources(addresses, scales, forms)
        alone = is_one_gradient(sources)
        largest = np.uint32(0)
        block = first
        while block < last:
            start, stop, row = blocks[block]
            block += 1
            if alone and is_unclipped(limits[row]):  # no cache to keep to: each call that ends costs
                while block < last and blocks[block, 0] == stop and blocks[block, 2] == row:
                    stop = blocks[block, 1]
                    block += 1
            gradient = clipped(sources, limits[row], start, stop, scratch)
            found = update(parameters[start:stop], gradient, slots, start, stop, scalars[row])
            largest = found if found > largest else largest
        return magnitude(np.uint32(largest >> np.uint32(1)))

    return step


def measurer(sums_of: Callable[..., tuple[float, float]]) -> Callable[..., None]:
    """The kernel Rule.measure of a rule that is given piece by piece.

    sums_of(w, gradient, slots, start, stop, row, scratch, lanes): its two sums; changes scratch and lanes alone.
    """

    @kernel
    def measure(
        parameters: Float32s,
        slots: Float32s,
        addresses: UInt64s,
        scales: Float32s,
        forms: Int64s,
        limits: Float32s,
        pieces: Int64s,
        rows: Int64s,
        first: int,
        last: int,
        scratch: Float32s,
        scalars: Float32s,
        sums: Float64s,
    ) -> None:
        sources = Sources(addresses, scales, forms)
        lanes = np.zeros(LANES, np.float64)
        for piece in range(first, last):
            row = rows[piece]
            if row < 0:
                continue
            start, stop = pieces[piece], pieces[piece + 1]
            gradient = clipped(sources, limits[row], start, stop, scratch)
            own = scratch[PIECE_ELEMENTS : PIECE_ELEMENTS + stop - start]
            found = sums_of(parameters[start:stop], gradient, slots, start, stop, scalars[row], own, lanes)
            sums[0, piece], sums[1, piece] = found

    return measure
