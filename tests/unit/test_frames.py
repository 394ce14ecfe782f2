"""Messages with data, against the generated classes: what we write they read, what they write we read."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from optimdpb.frames import framed, varint, with_data
from optimdpb.v1 import optimd_pb2 as pb

HEADERS = st.builds(
    pb.PushHeader,
    job=st.text(max_size=20),
    worker=st.text(max_size=300),
    epoch=st.integers(-(2**63), 2**63 - 1),
    seq=st.integers(0, 2**63 - 1),
    weight=st.floats(width=64),
    payload_bytes=st.integers(0, 2**62),
    layout_digest=st.binary(max_size=40),
)
MESSAGES = st.one_of(
    st.builds(pb.PushRequest, offset_bytes=st.integers(0, 2**62), crc32c=st.integers(0, 2**32 - 1)),
    st.builds(pb.PushRequest, header=HEADERS),
    st.builds(pb.StepRequest, header=HEADERS, crc32c=st.integers(0, 2**32 - 1)),
    st.builds(pb.UploadParametersRequest, offset_bytes=st.integers(0, 2**62)),
    st.builds(pb.StageRequest, header=HEADERS, element_start=st.integers(0, 2**62)),
)
# Around the lengths at which a varint grows.
DATA = st.one_of(st.binary(max_size=300), st.sampled_from([127, 128, 16383, 16384, 1 << 20]).map(lambda n: b"\x7a" * n))


def bytes_of(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)


def canonical(message: Any) -> bytes:
    """NaN makes messages unequal to themselves."""
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


@given(MESSAGES, DATA)
def test_what_we_write_any_protobuf_library_reads(message: Any, data: bytes) -> None:
    read = type(message).FromString(with_data(message, bytes_of(data)))
    message.data = data
    assert canonical(read) == canonical(message)


@given(MESSAGES, DATA)
def test_what_any_protobuf_library_writes_we_read(message: Any, data: bytes) -> None:
    bare = canonical(message)
    message.data = data
    read = framed(message.SerializeToString(), type(message))
    assert canonical(read.message) == bare
    assert read.data.tobytes() == data


@given(MESSAGES, DATA, st.randoms())
def test_fields_may_come_in_any_order_and_unknown_ones_too(message: Any, data: bytes, random: Any) -> None:
    unknown = [varint(100 << 3 | 0) + varint(2**60), varint(101 << 3 | 1) + bytes(8), varint(102 << 3 | 5) + bytes(4)]
    parts = [message.SerializeToString(), b"\x7a" + varint(len(data)) + data, *unknown]
    random.shuffle(parts)
    read = framed(b"".join(parts), type(message))
    assert read.data.tobytes() == data
    read.message.DiscardUnknownFields()
    assert canonical(read.message) == canonical(message)


@given(st.binary(max_size=60))
def test_garbage_is_read_as_protobuf_reads_it(garbage: bytes) -> None:
    try:
        expected = pb.PushRequest.FromString(garbage)
    except DecodeError:
        with pytest.raises(DecodeError):
            framed(garbage, pb.PushRequest)
        return
    read = framed(garbage, pb.PushRequest)
    assert read.data.tobytes() == expected.data
    expected.ClearField("data")
    assert canonical(read.message) == canonical(expected)


@pytest.mark.parametrize("garbage", [b"\xff" * 200_000, b"\x50\x01" * 200_000, b"\x58" + b"\x80" * 200_000])
def test_garbage_takes_no_time(garbage: bytes) -> None:
    """A varint without an end, fields without number: the event loop must not stand still."""
    started_s = time.monotonic()
    with contextlib.suppress(DecodeError):
        framed(garbage, pb.PushRequest)
    assert time.monotonic() - started_s < 1.0


def test_of_data_that_comes_twice_the_last_counts() -> None:
    twice = with_data(pb.PushRequest(offset_bytes=4), bytes_of(b"first")) + b"\x7a\x04last"
    read = framed(twice, pb.PushRequest)
    assert (read.data.tobytes(), read.message.offset_bytes) == (b"last", 4)


def test_data_is_not_copied_and_cannot_be_changed() -> None:
    encoded = with_data(pb.PushRequest(offset_bytes=4), bytes_of(b"12345678"))
    read = framed(encoded, pb.PushRequest)
    assert np.shares_memory(read.data, np.frombuffer(encoded, np.uint8))
    assert not read.data.flags.writeable
