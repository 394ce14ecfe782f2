"""What is lost on the wire, and that nothing is lost for good."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optimd.encoding import BFloat16, Float32, Int8Blocks, Payload, encoder_of
from optimdpb import encodings
from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_BLOCK_ELEMENTS
from optimdpb.v1 import optimd_pb2 as pb

Float32s = NDArray[np.float32]


def sent(flat: Float32s, encoder: Int8Blocks | BFloat16 | Float32, chunk_bytes: int = 1 << 20) -> bytes:
    return b"".join(chunk.tobytes() for chunk in Payload(flat, encoder).chunks(chunk_bytes))


def decoded(payload: bytes, elements: int) -> Float32s:
    """Blocks of int8, by the contract's words."""
    values: list[float] = []
    for start in range(0, len(payload), INT8_BLOCK_BYTES):
        (scale,) = struct.unpack("<f", payload[start : start + 4])
        quanta = np.frombuffer(payload[start + 4 : start + INT8_BLOCK_BYTES], np.int8)
        values += (np.float32(scale) * quanta.astype(np.float32)).tolist()
    assert len(values) == elements
    return np.array(values, np.float32)


def nearest_bfloat16(bits: int) -> int:
    """By the definition: of the two neighbours the nearer one, of two equally near the even one."""
    low = bits >> 16
    rest = bits & 0xFFFF
    return low + (rest > 0x8000 or (rest == 0x8000 and low & 1))


@settings(deadline=None)  # compiles at first
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bfloat16_is_the_nearest(patterns: list[int]) -> None:
    flat = np.array(patterns, np.uint32).view(np.float32)
    halves = np.frombuffer(sent(flat, BFloat16()), np.uint16)
    for pattern, half in zip(patterns, halves.tolist(), strict=True):
        if (pattern & 0x7FFFFFFF) > 0x7F800000:
            assert (half & 0x7FFF) > 0x7F80, "NaN stays NaN"
        else:
            assert half == nearest_bfloat16(pattern)


@pytest.mark.parametrize("elements", [1, 255, 256, 257, 5000])
def test_a_block_is_off_by_half_a_step_at_most(elements: int) -> None:
    rng = np.random.default_rng(elements)
    flat = (rng.standard_normal(elements) * 10.0 ** rng.integers(-20, 20, elements)).astype(np.float32)
    back = decoded(sent(flat, Int8Blocks(elements)), elements)
    for start in range(0, elements, INT8_BLOCK_ELEMENTS):
        block = slice(start, start + INT8_BLOCK_ELEMENTS)
        step = np.abs(flat[block]).max() / 127
        assert np.abs(flat[block] - back[block]).max() <= 0.5001 * step


def test_over_many_pushes_nothing_is_lost() -> None:
    """The sum of what was sent is off by what one push loses, not by a hundred times that."""
    elements, pushes = 3000, 100
    rng = np.random.default_rng(1)
    encoder = Int8Blocks(elements)
    true, told = np.zeros(elements), np.zeros(elements)
    for _ in range(pushes):
        gradient = rng.standard_normal(elements).astype(np.float32) + np.float32(0.003)
        true += gradient
        told += decoded(sent(gradient, encoder), elements)
        encoder.settled(applied=True)
    step = 4.5 / 127
    assert np.abs(true - told).max() < 0.6 * step


def test_what_was_not_applied_leaves_nothing_behind() -> None:
    flat, other = (np.random.default_rng(seed).standard_normal(600).astype(np.float32) for seed in (1, 2))
    encoder, untouched = Int8Blocks(600), Int8Blocks(600)
    for each in (encoder, untouched):
        sent(flat, each)
        each.settled(applied=True)
    sent(other * np.float32(np.nan), encoder)
    encoder.settled(applied=False)
    assert sent(other, encoder) == sent(other, untouched)


def test_the_same_push_is_the_same_bytes_whenever_it_is_sent() -> None:
    flat = np.random.default_rng(3).standard_normal(2000).astype(np.float32)
    encoder = Int8Blocks(2000)
    sent(flat, encoder)
    encoder.settled(applied=True)
    assert sent(flat, encoder) == sent(flat, encoder, INT8_BLOCK_BYTES) == sent(flat, encoder, 3 * INT8_BLOCK_BYTES + 7)


def test_zeros_and_numbers_too_small_to_divide_by() -> None:
    flat = np.zeros(600, np.float32)
    flat[256:512] = 1e-45
    encoder = Int8Blocks(600)
    assert not decoded(sent(flat, encoder), 600).any()
    encoder.settled(applied=True)
    flat[256:512] = 1.0
    assert decoded(sent(flat, encoder), 600)[256:512] == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("elements", [1, 255, 256, 257, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_whole_is_all_the_chunks(dtype: str, elements: int) -> None:
    encoders = {"float32": Float32, "bfloat16": BFloat16, "int8": lambda: Int8Blocks(elements)}
    payload = Payload(np.random.default_rng(elements).standard_normal(elements).astype(np.float32), encoders[dtype]())
    assert payload.whole().tobytes() == b"".join(chunk.tobytes() for chunk in payload.chunks(3 * INT8_BLOCK_BYTES))
    assert payload.whole().nbytes == payload.nbytes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    flat = np.ones(600, np.float32)
    flat[300] = bad
    (scale,) = struct.unpack("<f", sent(flat, Int8Blocks(600))[260:264])
    assert not np.isfinite(scale)


def test_sizes() -> None:
    elements = 25_000_000
    sizes = [encodings.payload_bytes(encoding, elements) for encoding in encodings.UNIT_BYTES]
    assert sizes == [100_000_000, 100_000_000, 50_000_000, 25_390_628]
    assert sizes[0] / sizes[3] > 3.8
    assert Payload(np.zeros(1000, np.float32), Int8Blocks(1000)).nbytes == 1016


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_small_vectors_are_sent_as_they_are(dtype: str) -> None:
    assert encoder_of(dtype, 16 * 1024).encoding == pb.ENCODING_F32
    assert (encoder_of(dtype, 16 * 1024 + 1).encoding == pb.ENCODING_F32) == (dtype == "float32")
