"""Gradients in fewer bytes: bfloat16, and blocks of int8 with what they lose carried over to the next push.

Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847): e = g + r; what is sent is q(e), and r
becomes e - q(e), so that over many pushes nothing is lost. What was not applied changes no r.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optimdpb import encodings
from optimdpb.blocks import INT8_BLOCK_BYTES, INT8_BLOCK_ELEMENTS
from optimdpb.v1 import optimd_pb2 as pb

Float32s = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PUSH_DTYPES = ("float32", "bfloat16", "int8")
PULL_DTYPES = ("float32", "bfloat16")
# Vectors up to here are sent as they are: what is left to save is less than a call.
PLAIN_BYTES_MAX = 64 * 1024


class Encoder(Protocol):
    """From elements to bytes, for one worker."""

    encoding: pb.Encoding
    # So many elements, or a multiple, make a chunk that may be cut there; and their bytes.
    unit_elements: int
    unit_bytes: int

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """Elements start to stop, start at a unit's border. The same until settled(), whenever it is asked for.

        scratch: room for it, where the bytes may be written.
        """

    def settled(self, applied: bool) -> None:
        """The push that these were for has its outcome."""


class Float32:
    """As it is: nothing is copied."""

    encoding = pb.ENCODING_F32
    unit_elements, unit_bytes = 1, 4

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """See Encoder."""
        return flat[start:stop].view(np.uint8)

    def settled(self, applied: bool) -> None:
        """See Encoder."""


class BFloat16:
    """The upper half of a float32, rounded to nearest."""

    encoding = pb.ENCODING_BF16
    unit_elements, unit_bytes = 1, 2

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """See Encoder."""
        from optimdpb.kernels import round_to_bfloat16

        halves: NDArray[np.uint16] = scratch[: 2 * (stop - start)].view(np.uint16)
        round_to_bfloat16(flat[start:stop], halves)
        return halves.view(np.uint8)

    def settled(self, applied: bool) -> None:
        """See Encoder."""


class Int8Blocks:
    """Blocks of int8 with error feedback. Takes as much memory as the gradient."""

    encoding = pb.ENCODING_INT8_BLOCK
    unit_elements, unit_bytes = INT8_BLOCK_ELEMENTS, INT8_BLOCK_BYTES

    def __init__(self, elements: int) -> None:
        self._lost: NDArray[np.uint16] = np.zeros(elements, np.uint16)
        self._lost_next: NDArray[np.uint16] = np.zeros(elements, np.uint16)

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """See Encoder."""
        from optimdpb.kernels import to_int8_blocks

        payload = scratch[: encodings.payload_bytes(self.encoding, stop - start)]
        to_int8_blocks(flat[start:stop], self._lost[start:stop], self._lost_next[start:stop], payload)
        return payload

    def settled(self, applied: bool) -> None:
        """See Encoder."""
        if applied:
            self._lost, self._lost_next = self._lost_next, self._lost


def encoder_of(dtype: str, elements: int) -> Encoder:
    """For pushes of a vector of so many elements."""
    if dtype == "float32" or 4 * elements <= PLAIN_BYTES_MAX:
        return Float32()
    return BFloat16() if dtype == "bfloat16" else Int8Blocks(elements)


class Payload:
    """A flat vector and how it is written. `flat` is read, not kept, each time it is sent."""

    def __init__(self, flat: Float32s, encoder: Encoder) -> None:
        self.flat = flat
        self._encoder = encoder

    @property
    def encoding(self) -> pb.Encoding:
        """Of the bytes."""
        return self._encoder.encoding

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return encodings.payload_bytes(self._encoder.encoding, self.flat.size)

    def chunks(self, bytes_max: int) -> Iterator[Bytes]:
        """All of it in order, in parts of at most bytes_max, encoded when asked for; each good until the next."""
        step = bytes_max // self._encoder.unit_bytes * self._encoder.unit_elements
        # Of this sending alone: another one's thread may still be at work.
        scratch = self._scratch(bytes_max)
        for start in range(0, self.flat.size, step):
            yield self._encoder.encode(self.flat, start, min(start + step, self.flat.size), scratch)

    def whole(self) -> Bytes:
        """All of it."""
        return self._encoder.encode(self.flat, 0, self.flat.size, self._scratch(self.nbytes))

    def _scratch(self, size_bytes: int) -> Bytes:
        return np.empty(0 if self._encoder.encoding == pb.ENCODING_F32 else size_bytes, np.uint8)
