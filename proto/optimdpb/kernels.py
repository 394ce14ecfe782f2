"""The arithmetic of lossy encodings, compiled at first use and kept on disk; imported only where they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_BLOCK_ELEMENTS, INT8_MAX, INT8_SCALE_BYTES

Float32s = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])
_INFINITY_BITS = 0x7F800000


def kernel(function: Function) -> Function:
    """Compile once, run without the interpreter's lock, with IEEE division and no fastmath."""
    try:
        compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder that it could keep them in: each process compiles for itself
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled  # type: ignore[no-any-return]


@kernel
def _nearest_bfloat16(bits: np.uint32) -> np.uint16:
    raised = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(_INFINITY_BITS)
    return np.uint16((bits | np.uint32(0x400000) if is_nan else raised) >> np.uint32(16))


@kernel
def round_to_bfloat16(values: Float32s, halves: NDArray[np.uint16]) -> None:
    """The nearest bfloat16 of each value, ties to even; NaN stays NaN. Four places at once use more of the memory."""
    bits = values.view(np.uint32)
    n = bits.size // 4
    a, b, c, d = bits[:n], bits[n : 2 * n], bits[2 * n : 3 * n], bits[3 * n : 4 * n]
    p, q, r, s = halves[:n], halves[n : 2 * n], halves[2 * n : 3 * n], halves[3 * n : 4 * n]
    for i in range(n):
        p[i], q[i] = _nearest_bfloat16(a[i]), _nearest_bfloat16(b[i])
        r[i], s[i] = _nearest_bfloat16(c[i]), _nearest_bfloat16(d[i])
    for i in range(4 * n, bits.size):
        halves[i] = _nearest_bfloat16(bits[i])


@kernel
def to_int8_blocks(
    gradient: Float32s, lost: NDArray[np.uint16], lost_next: NDArray[np.uint16], payload: NDArray[np.uint8]
) -> None:
    """payload = blocks of q = round(e / scale), e = gradient + lost, scale = max |e| / 127; lost_next = e - scale q.

    What is lost is kept as bfloat16: it is half a step at most, of which 1 / 512 is nothing, and it is memory that this
    takes its time for. A block that is not finite gets a scale that is not: the server rejects it.
    """
    errors = np.empty(INT8_BLOCK_ELEMENTS, np.float32)
    for block in range((gradient.size + INT8_BLOCK_ELEMENTS - 1) // INT8_BLOCK_ELEMENTS):
        start = block * INT8_BLOCK_ELEMENTS
        count = min(INT8_BLOCK_ELEMENTS, gradient.size - start)
        at = block * INT8_BLOCK_BYTES
        part, old, new = gradient[start : start + count], lost[start : start + count], lost_next[start : start + count]
        bits = errors.view(np.uint32)
        largest = np.uint32(0)
        for i in range(count):
            errors[i] = part[i] + np.uint32(np.uint32(old[i]) << np.uint32(16)).view(np.float32)
        for i in range(count):  # of the pattern without its sign: shifts and comparisons compile to vectors
            shifted = np.uint32(bits[i] << np.uint32(1))
            largest = shifted if shifted > largest else largest
        scale = np.uint32(largest >> np.uint32(1)).view(np.float32) / np.float32(INT8_MAX)
        values = payload[at + INT8_SCALE_BYTES : at + INT8_SCALE_BYTES + count].view(np.int8)
        if not scale < np.float32(np.inf):
            payload[at : at + INT8_SCALE_BYTES].view(np.float32)[0] = scale
            values[:] = 0
            continue
        inverse = np.float32(1.0) / scale
        if not inverse < np.float32(np.inf):  # nothing, or too small to divide by: carried over
            scale, inverse = np.float32(0.0), np.float32(0.0)
        payload[at : at + INT8_SCALE_BYTES].view(np.float32)[0] = scale
        for i in range(count):
            q = np.rint(errors[i] * inverse)
            values[i] = np.int8(np.int32(q))
            left = np.float32(errors[i] - scale * q).view(np.uint32)
            new[i] = np.uint16(np.uint32(left + np.uint32(0x8000)) >> np.uint32(16))
