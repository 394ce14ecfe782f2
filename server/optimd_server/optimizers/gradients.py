"""Reading the staged gradients of a round in place: their weighted sum, clipped, a run of elements at a time.

acc = s_0 g_0; acc = acc + s_i g_i; every operation rounded to float32. Several gradients are read in one loop where
that keeps this order: what is saved is traffic between the core and its cache.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_BLOCK_ELEMENTS, INT8_SCALE_BYTES

from optimd_server.optimizers.kernels import Float32s, Float64s, Int64s, kernel, largest_float32

UInt64s = NDArray[np.uint64]

# Forms of a gradient. Those of int8 are INT8 + phase: the shard's first element is element `phase` of the block at the
# address.
FLOAT32, BFLOAT16, INT8 = 4, 2, 256
# What is read a second time within a pass: of several gradients it must stay in the core's own cache.
RUN_ELEMENTS = 2048


class Sources(NamedTuple):
    """The gradients of a round, in order: address of the shard's first element, s_i, form.

    FLOAT32, BFLOAT16 (the upper half of a float32), or INT8 + phase: blocks of 256 elements, a float32 scale and then a
    byte q for each, whose value is float32(scale q). The memory is the caller's, who keeps it alive.
    Kernels called from Python take the three fields instead: numba is slow to recognise a named tuple.
    """

    addresses: UInt64s
    scales: Float32s
    forms: Int64s


@intrinsic
def _pointer(_typing_context: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def _stream_eight(_typing_context: Any, target: Any, source: Any) -> Any:
    """Copy eight float32 to an address that is a multiple of 32, past the caches."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        eight = ir.VectorType(ir.FloatType(), 8).as_pointer()
        values = builder.load(builder.inttoptr(arguments[1], eight), align=FLOAT32)
        stored = builder.store(values, builder.inttoptr(arguments[0], eight), align=32)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(target, source), generate


def float32_view(address: int, count: int) -> Float32s:
    """The `count` float32 at a memory address."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_float)), (count,))


def uint16_view(address: int, count: int) -> NDArray[np.uint16]:
    """The `count` uint16 at a memory address."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_uint16)), (count,))


def int8_view(address: int, count: int) -> NDArray[np.int8]:
    """The `count` int8 at a memory address."""
    return np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_int8)), (count,))


@overload(int8_view)
def _int8_view_compiled(address: Any, count: Any) -> Any:
    def view(address: Any, count: Any) -> Any:
        return numba.carray(_pointer(address), count, np.int8)  # type: ignore[attr-defined,call-arg]

    return view


@overload(float32_view)
def _float32_view_compiled(address: Any, count: Any) -> Any:
    def view(address: Any, count: Any) -> Any:
        return numba.carray(_pointer(address), count, np.float32)  # type: ignore[attr-defined,call-arg]

    return view


@overload(uint16_view)
def _uint16_view_compiled(address: Any, count: Any) -> Any:
    def view(address: Any, count: Any) -> Any:
        return numba.carray(_pointer(address), count, np.uint16)  # type: ignore[attr-defined,call-arg]

    return view


@kernel
def _float32_at(sources: Sources, k: int, start: int, count: int) -> Float32s:
    return float32_view(sources.addresses[k] + np.uint64(start * FLOAT32), count)


@kernel
def _add_int8(acc: Float32s, sources: Sources, k: int, start: int, alone: bool) -> None:
    """acc = s_k g_k if it is alone, else acc + s_k g_k, for g_k in blocks of int8; block by block."""
    scale = sources.scales[k]
    first = start + sources.forms[k] - INT8
    done = 0
    while done < acc.size:
        block, inside = (first + done) // INT8_BLOCK_ELEMENTS, (first + done) % INT8_BLOCK_ELEMENTS
        count = min(INT8_BLOCK_ELEMENTS - inside, acc.size - done)
        address = sources.addresses[k] + np.uint64(block * INT8_BLOCK_BYTES)
        unit = float32_view(address, 1)[0]
        values = int8_view(address + np.uint64(INT8_SCALE_BYTES + inside), count)
        part = acc[done : done + count]
        if alone:
            for i in range(count):
                part[i] = scale * (unit * np.float32(values[i]))
        else:
            for i in range(count):
                part[i] = part[i] + scale * (unit * np.float32(values[i]))
        done += count


@kernel
def _set_one(acc: Float32s, sources: Sources, start: int) -> None:
    """acc = s_0 g_0."""
    scale = sources.scales[0]
    if sources.forms[0] >= INT8:
        _add_int8(acc, sources, 0, start, True)
    elif sources.forms[0] == BFLOAT16:
        halves = uint16_view(sources.addresses[0] + np.uint64(start * BFLOAT16), acc.size)
        for i in range(acc.size):
            acc[i] = scale * np.uint32(np.uint32(halves[i]) << np.uint32(16)).view(np.float32)
    else:
        gradient = _float32_at(sources, 0, start, acc.size)
        for i in range(acc.size):
            acc[i] = scale * gradient[i]


@kernel
def _add_one(acc: Float32s, sources: Sources, k: int, start: int) -> None:
    """acc = acc + s_k g_k."""
    scale = sources.scales[k]
    if sources.forms[k] >= INT8:
        _add_int8(acc, sources, k, start, False)
    elif sources.forms[k] == BFLOAT16:
        halves = uint16_view(sources.addresses[k] + np.uint64(start * BFLOAT16), acc.size)
        for i in range(acc.size):
            acc[i] = acc[i] + scale * np.uint32(np.uint32(halves[i]) << np.uint32(16)).view(np.float32)
    else:
        gradient = _float32_at(sources, k, start, acc.size)
        for i in range(acc.size):
            acc[i] = acc[i] + scale * gradient[i]


@kernel
def _set_two(acc: Float32s, sources: Sources, start: int) -> None:
    """_set_one(), then _add_one() of g_1, for float32."""
    a, b = _float32_at(sources, 0, start, acc.size), _float32_at(sources, 1, start, acc.size)
    s, t = sources.scales[0], sources.scales[1]
    for i in range(acc.size):
        acc[i] = s * a[i] + t * b[i]


@kernel
def _set_four(acc: Float32s, sources: Sources, start: int) -> None:
    """_set_one(), then _add_one() of g_1 to g_3, for float32."""
    a, b = _float32_at(sources, 0, start, acc.size), _float32_at(sources, 1, start, acc.size)
    c, d = _float32_at(sources, 2, start, acc.size), _float32_at(sources, 3, start, acc.size)
    s, t, u, v = sources.scales[0], sources.scales[1], sources.scales[2], sources.scales[3]
    for i in range(acc.size):
        acc[i] = ((s * a[i] + t * b[i]) + u * c[i]) + v * d[i]


@kernel
def _add_four(acc: Float32s, sources: Sources, k: int, start: int) -> None:
    """_add_one() of g_k to g_{k+3}, for float32."""
    a, b = _float32_at(sources, k, start, acc.size), _float32_at(sources, k + 1, start, acc.size)
    c, d = _float32_at(sources, k + 2, start, acc.size), _float32_at(sources, k + 3, start, acc.size)
    s, t, u, v = sources.scales[k], sources.scales[k + 1], sources.scales[k + 2], sources.scales[k + 3]
    for i in range(acc.size):
        acc[i] = (((acc[i] + s * a[i]) + t * b[i]) + u * c[i]) + v * d[i]


@kernel
def is_one_gradient(sources: Sources) -> bool:
    """Whether the sum is one worker's float32 gradient as it stands: nothing to compute, nothing to write aside."""
    return sources.addresses.size == 1 and sources.scales[0] == np.float32(1.0) and sources.forms[0] == FLOAT32


@kernel
def summed(sources: Sources, start: int, stop: int, scratch: Float32s) -> Float32s:
    """The sum over elements start to stop of the shard.

    Returns the gradient itself where the arithmetic would not change it, else a view of `scratch`.
    """
    count, total = stop - start, sources.addresses.size
    if is_one_gradient(sources):
        return _float32_at(sources, 0, start, count)
    acc = scratch[:count]
    wide = True
    for k in range(total):
        wide = wide and sources.forms[k] == FLOAT32
    if wide and total >= 4:
        _set_four(acc, sources, start)
        done = 4
    elif wide and total >= 2:
        _set_two(acc, sources, start)
        done = 2
    else:
        _set_one(acc, sources, start)
        done = 1
    while wide and done + 4 <= total:
        _add_four(acc, sources, done, start)
        done += 4
    for k in range(done, total):
        _add_one(acc, sources, k, start)
    return acc


@kernel
def is_unclipped(limit: Float32s) -> bool:
    """Whether clipping under this row of limits changes nothing."""
    return bool(limit[0] == np.float32(1.0) and limit[1] == np.float32(np.inf))


@kernel
def clipped(sources: Sources, limit: Float32s, start: int, stop: int, scratch: Float32s) -> Float32s:
    """summed(), then times limit[0], the clip factor, then cut to [-limit[1], limit[1]]."""
    gradient = summed(sources, start, stop, scratch)
    if is_unclipped(limit):
        return gradient
    factor, bound = limit[0], limit[1]
    smaller = scratch[: stop - start]
    for i in range(stop - start):
        smaller[i] = min(max(factor * gradient[i], -bound), bound)
    return smaller


@kernel
def _stream(target: Float32s, source: Float32s) -> None:
    """Copy a run that is not read soon: it is not brought into the caches first, which an ordinary write would do.

    Who reads it on another core comes after a lock, which waits for such writes as for any other.
    """
    count = int(target.size)
    head = min(count, (32 - int(target.ctypes.data) % 32) % 32 // FLOAT32)
    whole = (count - head) // 8 * 8
    for i in range(head):
        target[i] = source[i]
    to, of = np.uint64(target.ctypes.data + head * FLOAT32), np.uint64(source.ctypes.data + head * FLOAT32)
    for i in range(0, whole * FLOAT32, 32):
        _stream_eight(to + np.uint64(i), of + np.uint64(i))  # type: ignore[call-arg]
    for i in range(head + whole, count):
        target[i] = source[i]


@kernel
def reduce_and_scan_blocks(
    reduced: Float32s,
    addresses: UInt64s,
    scales: Float32s,
    forms: Int64s,
    scanned: Int64s,
    blocks: Int64s,
    first: int,
    last: int,
    scratch: Float32s,
    largest: Float64s,
) -> None:
    """reduce_blocks(), and for each float32 source k of `scanned` largest = max(largest, |g_k|), in one pass."""
    sources = Sources(addresses, scales, forms)
    for block in range(first, last):
        for start in range(blocks[block, 0], blocks[block, 1], RUN_ELEMENTS):
            stop = min(start + RUN_ELEMENTS, blocks[block, 1])
            total = summed(sources, start, stop, scratch)  # first: it reads all of them at once
            for i in range(scanned.size):
                gradient = _float32_at(sources, scanned[i], start, stop - start)
                largest[i] = max(largest[i], largest_float32(gradient))
            _stream(reduced[start:stop], total)


@kernel
def reduce_blocks(
    reduced: Float32s,
    addresses: UInt64s,
    scales: Float32s,
    forms: Int64s,
    blocks: Int64s,
    first: int,
    last: int,
    scratch: Float32s,
) -> None:
    """Write the sum over blocks first <= b < last into `reduced`."""
    sources = Sources(addresses, scales, forms)
    for block in range(first, last):
        start, stop = blocks[block, 0], blocks[block, 1]
        reduced[start:stop] = summed(sources, start, stop, scratch)
