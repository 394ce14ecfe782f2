"""Messages with a large `data` field, written and read without taking the data through protobuf.

`data` is field 15 of every message that has it, the highest-numbered, so its bytes can be joined behind the other
fields, and found again by stepping over those. On the wire it is plain protobuf.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

DATA_FIELD = 15
_DATA_TAG = DATA_FIELD << 3 | 2
_DATA_TAG_BYTES = bytes([_DATA_TAG])
_NO_DATA: NDArray[np.uint8] = np.empty(0, np.uint8)
# Bytes of a field by wire type, where they do not depend on its value.
_FIXED_BYTES = {1: 8, 5: 4}
_VARINT_WIRE, _LENGTH_WIRE = 0, 2
# Messages of the contract have fewer fields; what has more is left to protobuf, which is faster.
FIELDS_MAX = 64
VARINT_BITS_MAX = 70


class Framed(NamedTuple):
    """A message without its `data`, and that, read-only, in the bytes that came."""

    message: Any
    data: NDArray[np.uint8]


def with_data(message: Message, data: NDArray[np.uint8]) -> bytes:
    """The serialized message, whose `data` must be unset, with `data` joined behind it: one copy."""
    if not data.size:
        return message.SerializeToString()
    return b"".join((message.SerializeToString(), _DATA_TAG_BYTES, varint(data.nbytes), data.data))


def framed(encoded: bytes, message_class: Any) -> Framed:
    """What with_data() wrote, or any protobuf library; the data is not copied. Raises DecodeError."""
    found = _data_of(encoded)
    if found is None:  # malformed, or data twice: protobuf knows
        message = message_class.FromString(encoded)
        data = np.frombuffer(message.data, np.uint8)
        message.ClearField("data")
        return Framed(message, data)
    tag, start, stop = found
    if stop == tag:
        return Framed(message_class.FromString(encoded), _NO_DATA)
    rest = encoded[:tag] if stop == len(encoded) else encoded[:tag] + encoded[stop:]
    return Framed(message_class.FromString(rest), np.frombuffer(encoded, np.uint8, stop - start, start))


def varint(value: int) -> bytes:
    """A length as protobuf writes it: 7 bits a byte, lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _data_of(encoded: bytes) -> tuple[int, int, int] | None:
    """Where the tag of `data`, its first byte and its end are; three times the end if there is none.

    None for what is not understood here.
    """
    at, end = 0, len(encoded)
    found = (end, end, end)
    try:
        for _ in range(FIELDS_MAX):
            if at >= end:
                break
            tag_at, tag = at, encoded[at]
            at += 1
            if tag > 0x7F:
                tag, at = _read_varint(encoded, tag_at)
            wire = tag & 7
            if wire == _LENGTH_WIRE:
                size = encoded[at]
                at += 1
                if size > 0x7F:
                    size, at = _read_varint(encoded, at - 1)
                if tag == _DATA_TAG:
                    if found[0] != end:
                        return None
                    found = (tag_at, at, at + size)
                at += size
            elif wire == _VARINT_WIRE:
                _, at = _read_varint(encoded, at)
            else:
                at += _FIXED_BYTES[wire]
    except (IndexError, KeyError):
        return None
    return found if at == end else None


def _read_varint(encoded: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it. Raises IndexError."""
    value, shift = 0, 0
    while True:
        byte = encoded[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= VARINT_BITS_MAX:
            raise IndexError
