"""Frames of calls over a unix socket, as the contract describes them at LocalCalls."""

from __future__ import annotations

import struct

BYTES_MAX = 4 << 20
SIZE_BYTES = 4
_SIZE = struct.Struct("<I")
_OK, _REFUSED = b"\0", b"\1"


def request(method: str, message: bytes) -> list[bytes]:
    """The frame of a call, in parts."""
    name = method.encode()
    return [_SIZE.pack(1 + len(name) + len(message)), bytes([len(name)]), name, message]


def response(message: bytes) -> list[bytes]:
    """The frame of an answer, in parts."""
    return [_SIZE.pack(1 + len(message)), _OK, message]


def refusal(status: bytes) -> list[bytes]:
    """The frame of a google.rpc.Status, in parts."""
    return [_SIZE.pack(1 + len(status)), _REFUSED, status]


def size_of(received: bytes | bytearray) -> int | None:
    """The size of the frame behind its first four bytes, None until they are there."""
    return int(_SIZE.unpack_from(received)[0]) if len(received) >= SIZE_BYTES else None


def request_of(frame: bytes | bytearray) -> tuple[str, bytes]:
    """Method and message of a whole frame; of a malformed one a name that no method has."""
    name_stop = SIZE_BYTES + 1 + (frame[SIZE_BYTES] if len(frame) > SIZE_BYTES else 0)
    return frame[SIZE_BYTES + 1 : name_stop].decode(errors="replace"), bytes(memoryview(frame)[name_stop:])


def response_of(frame: bytes | bytearray) -> tuple[bool, bytes]:
    """Whether a whole frame is an answer, and its message; else the bytes of a google.rpc.Status."""
    return frame[SIZE_BYTES : SIZE_BYTES + 1] == _OK, bytes(memoryview(frame)[SIZE_BYTES + 1 :])
