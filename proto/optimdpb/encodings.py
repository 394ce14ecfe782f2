"""How the elements of a payload are written: sizes that both sides of the contract must agree on."""

from __future__ import annotations

from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_BLOCK_ELEMENTS, INT8_SCALE_BYTES
from optimdpb.v1 import optimd_pb2 as pb

FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2

# Bytes that a chunk may not be cut within, by encoding; those served for pushes.
UNIT_BYTES: dict[int, int] = {
    pb.ENCODING_UNSPECIFIED: FLOAT32_BYTES,
    pb.ENCODING_F32: FLOAT32_BYTES,
    pb.ENCODING_BF16: BFLOAT16_BYTES,
    pb.ENCODING_INT8_BLOCK: INT8_BLOCK_BYTES,
}


def payload_bytes(encoding: int, elements: int) -> int:
    """Bytes of a vector of so many elements."""
    if encoding == pb.ENCODING_INT8_BLOCK:
        return elements + INT8_SCALE_BYTES * -(-elements // INT8_BLOCK_ELEMENTS)
    return UNIT_BYTES[encoding] * elements
