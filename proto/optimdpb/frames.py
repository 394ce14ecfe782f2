"""Messages with a large `data` field, written without copying the data through protobuf.

`data` is field 15 of every message that has it, the highest-numbered, so its bytes can be joined behind the other
fields. On the wire it is plain protobuf.
"""

from __future__ import annotations

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

_DATA_TAG = bytes([15 << 3 | 2])


def with_data(message: Message, data: NDArray[np.uint8]) -> bytes:
    """The serialized message, whose `data` must be unset, with `data` joined behind it: one copy."""
    if not data.size:
        return message.SerializeToString()
    return b"".join((message.SerializeToString(), _DATA_TAG, varint(data.nbytes), data.data))


def varint(value: int) -> bytes:
    """A length as protobuf writes it: 7 bits a byte, lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
