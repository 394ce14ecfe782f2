"""Frames of calls over a unix socket, as the contract describes them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from optimdpb import local

MESSAGES = st.binary(max_size=300)


@given(method=st.sampled_from(["Step", "Heartbeat", "AwaitOutcome"]), message=MESSAGES)
def test_a_request_is_what_it_was(method: str, message: bytes) -> None:
    frame = b"".join(local.request(method, message))
    assert local.size_of(frame) == len(frame) - local.SIZE_BYTES
    assert local.request_of(frame) == (method, message)


@given(message=MESSAGES)
def test_an_answer_is_what_it_was(message: bytes) -> None:
    for made, answered in ((local.response, True), (local.refusal, False)):
        frame = b"".join(made(message))
        assert local.size_of(frame) == len(frame) - local.SIZE_BYTES
        assert local.response_of(frame) == (answered, message)


def test_the_bytes_are_those_of_the_contract() -> None:
    assert b"".join(local.request("Step", b"ab")) == b"\x07\0\0\0\x04Stepab"
    assert b"".join(local.response(b"ab")) == b"\x03\0\0\0\0ab"
    assert b"".join(local.refusal(b"ab")) == b"\x03\0\0\0\x01ab"


@given(frame=st.binary(max_size=40))
def test_any_bytes_are_some_request(frame: bytes) -> None:
    """Nothing is raised: what is malformed has a name that no method has, or a message that is refused."""
    name, message = local.request_of(frame)
    behind_length = frame[local.SIZE_BYTES + 1 :]
    length = frame[local.SIZE_BYTES] if len(frame) > local.SIZE_BYTES else 0
    assert message == behind_length[length:]
    assert name == behind_length[:length].decode(errors="replace")


def test_a_size_needs_four_bytes() -> None:
    assert local.size_of(b"\1\0\0") is None
