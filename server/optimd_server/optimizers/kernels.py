"""What every update kernel is built from: reading staged gradients in place, reducing them, measuring them.

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
from numba.extending import intrinsic, overload
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
def reduce_tile(
    addresses: UInt64s, scales: Float32s, clip_factor: np.float32, start: int, stop: int, scratch: Float32s
) -> Float32s:
    """acc = s_0 g_0; acc = acc + s_i g_i; acc = clip_factor acc; over elements start to stop of the shard.

    Returns the gradient itself where the arithmetic would not change it, else a view of `scratch`.
    """
    count = stop - start
    offset = np.uint64(start * _FLOAT32_BYTES)
    one = np.float32(1.0)
    first = float32_view(addresses[0] + offset, count)
    if addresses.size == 1 and scales[0] == one and clip_factor == one:
        return first
    accumulator = scratch[:count]
    scale = scales[0]
    for i in range(count):
        accumulator[i] = scale * first[i]
    for k in range(1, addresses.size):
        gradient = float32_view(addresses[k] + offset, count)
        scale = scales[k]
        for i in range(count):
            accumulator[i] = accumulator[i] + scale * gradient[i]
    if clip_factor != one:
        for i in range(count):
            accumulator[i] = clip_factor * accumulator[i]
    return accumulator


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
    """Write the reduced gradient of every stride-th block, from first_block on, into `reduced`."""
    for block in range(first_block, blocks.shape[0], stride):
        for start in range(blocks[block, 0], blocks[block, 1], TILE_ELEMENTS):
            stop = min(start + TILE_ELEMENTS, blocks[block, 1])
            reduced[start:stop] = reduce_tile(addresses, scales, np.float32(1.0), start, stop, scratch)


@kernel
def piece_squares(values: Float32s, pieces: Int64s, first_piece: int, last_piece: int, sums: Float64s) -> None:
    """sums[p] = sum of squares of piece p = elements pieces[p] to pieces[p + 1], for first_piece <= p < last_piece.

    One float64 for each piece: element i goes to lane i mod 16, then lanes are added from the first to the last.
    """
    lanes = np.zeros(LANES, np.float64)
    for piece in range(first_piece, last_piece):
        start, stop = pieces[piece], pieces[piece + 1]
        lanes[:] = 0.0
        whole = start + (stop - start) // LANES * LANES
        for row in range(start, whole, LANES):
            for lane in range(LANES):
                value = np.float64(values[row + lane])
                lanes[lane] += value * value
        for i in range(whole, stop):
            value = np.float64(values[i])
            lanes[i - whole] += value * value
        total = 0.0
        for lane in range(LANES):
            total += lanes[lane]
        sums[piece] = total


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
def blend(old: np.float32, new: np.float32, keep: np.float32, take: np.float32) -> np.float32:
    """keep old + take new with keep + take = 1, by the form that loses less.

    old + take (new - old) does not suffer from keep's rounding, which matters for keep near 1; keep old + take new
    does not cancel for large take.
    """
    if take < np.float32(0.5):
        return old + take * (new - old)
    return keep * old + take * new
