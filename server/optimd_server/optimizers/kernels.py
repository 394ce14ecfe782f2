"""What every update kernel is built from: how it is compiled, and the arithmetic that rules share.

All kernels are serial, hold no lock and release the GIL; the runtime hands out runs of blocks to its threads.
They work on the elements of one shard, flat and float32. Every operation is rounded to float32 by itself: no fused
multiply-add, no reassociation, so the bits do not depend on how the elements are split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray
from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_SCALE_BYTES

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

PIECE_ELEMENTS = 4096
# A block is one turn of a thread and one call of a rule. Long calls keep the core's queues of loads full; the reduced
# gradient of a block must stay in the second-level cache.
BLOCK_ELEMENTS = 32 * 1024
LANES = 16
# Bit patterns from here on, sign cleared, are infinity and NaN.
_INFINITY_BITS = 0x7F800000

# Loops of rules ask each element what is the same for all of them (weight decay, form of a blend). The compiler makes a
# loop for each answer, up to this size; its own default is passed by Adam's, which then takes 1.4 times as long.
llvm.set_option("optimd", "-unswitch-threshold=200")

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile once, keep on disk, run without the GIL, with IEEE division and no fastmath."""
    compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """A function for use inside kernels. It must stand at the top of its module: the cache knows it by its name."""
    marked: Any = register_jitable(function)
    return marked  # type: ignore[no-any-return]


@inlined
def larger(largest: np.uint32, value: np.float32) -> np.uint32:
    """The larger of a bit pattern, sign shifted out, and that of a value: a maximum that infinity and NaN win."""
    doubled = np.uint32(np.float32(value).view(np.uint32) << np.uint32(1))
    return doubled if doubled > largest else largest


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
def magnitude(bits: np.uint32) -> float:
    """The float32 of a bit pattern without sign; infinity for NaN."""
    return np.inf if bits >= np.uint32(_INFINITY_BITS) else np.float64(np.uint32(bits).view(np.float32))


@kernel
def largest_float32(values: Float32s) -> float:
    """The largest |value|, infinity if one is not finite.

    Four places at once: a core that reads a single stream waits for memory half of the time. Shifts and comparisons
    are what compiles to vectors of the elements' own width.
    """
    bits, one = values.view(np.uint32), np.uint32(1)
    n = bits.size // 4
    a, b, c, d = bits[:n], bits[n : 2 * n], bits[2 * n : 3 * n], bits[3 * n : 4 * n]
    p = q = r = s = np.uint32(0)
    for i in range(n):
        x, y, z, w = np.uint32(a[i] << one), np.uint32(b[i] << one), np.uint32(c[i] << one), np.uint32(d[i] << one)
        p, q, r, s = x if x > p else p, y if y > q else q, z if z > r else r, w if w > s else s
    largest = max(p, q, r, s)
    for i in range(4 * n, bits.size):
        largest = max(largest, np.uint32(bits[i] << one))
    return magnitude(np.uint32(largest >> one))


@kernel
def _largest_bfloat16(values: NDArray[np.uint16]) -> float:
    """The same of the upper halves of float32."""
    largest = np.uint16(0)
    for i in range(values.size):
        shifted = np.uint16(values[i] << np.uint16(1))
        largest = shifted if shifted > largest else largest
    return magnitude(np.uint32(np.uint32(largest) << np.uint32(15)))


@kernel
def magnitude_max_of_blocks(payload: NDArray[np.uint8]) -> float:
    """The largest |scale q| in blocks of a float32 scale and then int8, infinity if one is not finite."""
    largest = np.float32(0.0)
    start = 0
    while start < payload.size:
        stop = min(start + INT8_BLOCK_BYTES, payload.size)
        scale = np.abs(payload[start : start + INT8_SCALE_BYTES].view(np.float32)[0])
        values = payload[start + INT8_SCALE_BYTES : stop].view(np.int8)
        high, low = np.int8(0), np.int8(0)
        for i in range(values.size):
            high = values[i] if values[i] > high else high
            low = values[i] if values[i] < low else low
        most = max(np.int32(high), -np.int32(low))
        size = scale * np.float32(most) if most else scale
        if not size < np.inf:
            return np.inf
        largest = max(largest, size if most else np.float32(0.0))
        start = stop
    return np.float64(largest)


def magnitude_max(values: NDArray[np.float32] | NDArray[np.uint16]) -> float:
    """The largest |value| of float32, or of bfloat16 as uint16; infinity if one is not finite; 0 for no values.

    As integers the patterns, sign cleared, order like the magnitudes, with infinity and NaN above every number: one
    integer maximum finds both.
    """
    return _largest_bfloat16(values) if values.dtype == np.uint16 else largest_float32(values)  # type: ignore[arg-type]


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
