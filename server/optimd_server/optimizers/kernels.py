"""What every update kernel is built from: reading staged gradients in place, reducing, clipping, measuring them.

All kernels are serial, hold no lock and release the GIL; the runtime gives each of its threads every stride-th block.
They work on the elements of one shard, flat and float32. Every operation is rounded to float32 by itself: no fused
multiply-add, no reassociation, so the bits do not depend on how the elements are split.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

PIECE_ELEMENTS = 4096
# One thread's turn: small enough to share work evenly, large enough that a turn costs nothing.
BLOCK_ELEMENTS = 64 * 1024
# What the reduced gradient of a block is cut to, so that it stays in the first-level cache.
TILE_ELEMENTS = 4096
LANES = 16
_FLOAT32_BYTES = 4
# Bit patterns from here on, sign cleared, are infinity and NaN.
_INFINITY_BITS = 0x7F800000

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile once, keep on disk, run without the GIL, with IEEE division and no fastmath."""
    compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """A function for use inside kernels. It must stand at the top of its module: the cache knows it by its name."""
    marked: Any = register_jitable(function)
    return marked  # type: ignore[no-any-return]


@intrinsic
def _pointer(_typing_context: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


def float32_view(address: int, count: int) -> Float32s:
    """The `count` float32 at a memory address, not owned. The caller keeps the memory alive."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_float)), (count,))


@overload(float32_view)
def _float32_view_compiled(address: Any, count: Any) -> Any:
    def view(address: Any, count: Any) -> Any:
        return numba.carray(_pointer(address), count, np.float32)  # type: ignore[attr-defined,call-arg]

    return view


@kernel
def sum_tile(addresses: UInt64s, scales: Float32s, start: int, stop: int, scratch: Float32s) -> Float32s:
    """acc = s_0 g_0; acc = acc + s_i g_i; over elements start to stop of the shard.

    Returns the gradient itself where the arithmetic would not change it, else a view of `scratch`.
    """
    count = stop - start
    offset = np.uint64(start * _FLOAT32_BYTES)
    first = float32_view(addresses[0] + offset, count)
    scale = scales[0]
    if addresses.size == 1 and scale == np.float32(1.0):
        return first
    accumulator = scratch[:count]
    for i in range(count):
        accumulator[i] = scale * first[i]
    for k in range(1, addresses.size):
        gradient = float32_view(addresses[k] + offset, count)
        scale = scales[k]
        for i in range(count):
            accumulator[i] = accumulator[i] + scale * gradient[i]
    return accumulator


@kernel
def gradient_tile(
    addresses: UInt64s, scales: Float32s, limit: Float32s, start: int, stop: int, scratch: Float32s
) -> Float32s:
    """sum_tile(), then times limit[0], the clip factor, then cut to [-limit[1], limit[1]]."""
    gradient = sum_tile(addresses, scales, start, stop, scratch)
    factor, bound = limit[0], limit[1]
    if factor == np.float32(1.0) and bound == np.float32(np.inf):
        return gradient
    clipped = scratch[: stop - start]
    for i in range(stop - start):
        clipped[i] = min(max(factor * gradient[i], -bound), bound)
    return clipped


@kernel
def reduce_blocks(
    reduced: Float32s,
    addresses: UInt64s,
    scales: Float32s,
    blocks: Int64s,
    first_block: int,
    stride: int,
    scratch: Float32s,
) -> None:
    """Write the sum over every stride-th block, from first_block on, into `reduced`."""
    for block in range(first_block, blocks.shape[0], stride):
        for start in range(blocks[block, 0], blocks[block, 1], TILE_ELEMENTS):
            stop = min(start + TILE_ELEMENTS, blocks[block, 1])
            reduced[start:stop] = sum_tile(addresses, scales, start, stop, scratch)


@kernel
def lane_dot(left: Float32s, right: Float32s, lanes: Float64s) -> float:
    """Sum of left[i] right[i] in float64: element i goes to lane i mod 16, then lanes are added from the first on."""
    lanes[:] = 0.0
    whole = left.size // LANES * LANES
    for row in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(left[row + lane]) * np.float64(right[row + lane])
    for i in range(whole, left.size):
        lanes[i - whole] += np.float64(left[i]) * np.float64(right[i])
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@kernel
def piece_squares(
    addresses: UInt64s, scales: Float32s, pieces: Int64s, first: int, last: int, scratch: Float32s, sums: Float64s
) -> None:
    """sums[p] = sum of squares of the reduced gradient over piece p = pieces[p] to pieces[p + 1], first <= p < last."""
    lanes = np.zeros(LANES, np.float64)
    for piece in range(first, last):
        gradient = sum_tile(addresses, scales, pieces[piece], pieces[piece + 1], scratch)
        sums[piece] = lane_dot(gradient, gradient, lanes)


@kernel
def magnitude_bits(values: Float32s) -> np.int32:
    """Bit pattern of the largest |value|; 0 for no values. As integers the patterns order like the magnitudes, with
    infinity and NaN above every number, so one integer maximum finds both."""
    bits = values.view(np.int32)
    mask = np.int32(0x7FFFFFFF)
    largest = np.int32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & mask)
    return largest


def magnitude_max(values: Float32s) -> float:
    """The largest |value|, as a float; infinity if any value is not finite; 0 for no values."""
    bits = int(magnitude_bits(values))
    return float("inf") if bits >= _INFINITY_BITS else float(np.int32(bits).view(np.float32))


@kernel
def quotient(dividend: np.float32, divisor: np.float32) -> np.float32:
    """dividend / divisor, or 0 where the divisor is 0: with eps = 0 a parameter that never had a gradient stays."""
    return dividend / divisor if divisor != np.float32(0.0) else np.float32(0.0)


@kernel
def blend(old: np.float32, new: np.float32, keep: np.float32, take: np.float32) -> np.float32:
    """keep old + take new with keep + take = 1, by the form that loses less.

    old + take (new - old) does not suffer from keep's rounding, which matters for keep near 1; keep old + take new
    does not cancel for large take.
    """
    if take < np.float32(0.5):
        return old + take * (new - old)
    return keep * old + take * new


def stepper(update: Callable[..., None]) -> Callable[..., None]:
    """The kernel Rule.step of a rule that is given tile by tile.

    update(w, gradient, slots, start, stop, row): changes w, elements start to stop of the parameters, and
    slots[:, start:stop] in place, in one pass; gradient is reduced and clipped, row holds the scalars.
    """

    @kernel
    def step(
        parameters: Float32s,
        slots: Float32s,
        addresses: UInt64s,
        scales: Float32s,
        limits: Float32s,
        blocks: Int64s,
        first_block: int,
        stride: int,
        scratch: Float32s,
        scalars: Float32s,
    ) -> None:
        for block in range(first_block, blocks.shape[0], stride):
            row = blocks[block, 2]
            for start in range(blocks[block, 0], blocks[block, 1], TILE_ELEMENTS):
                stop = min(start + TILE_ELEMENTS, blocks[block, 1])
                gradient = gradient_tile(addresses, scales, limits[row], start, stop, scratch)
                update(parameters[start:stop], gradient, slots, start, stop, scalars[row])

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
        limits: Float32s,
        pieces: Int64s,
        rows: Int64s,
        first: int,
        last: int,
        scratch: Float32s,
        scalars: Float32s,
        sums: Float64s,
    ) -> None:
        lanes = np.zeros(LANES, np.float64)
        for piece in range(first, last):
            row = rows[piece]
            if row < 0:
                continue
            start, stop = pieces[piece], pieces[piece + 1]
            gradient = gradient_tile(addresses, scales, limits[row], start, stop, scratch[0])
            own = scratch[1, : stop - start]
            found = sums_of(parameters[start:stop], gradient, slots, start, stop, scalars[row], own, lanes)
            sums[0, piece], sums[1, piece] = found

    return measure
