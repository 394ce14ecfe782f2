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


class Encoding(Protocol):
    """From elements to bytes, for one push."""

    encoding: pb.Encoding
    # So many elements, or a multiple, make a chunk that may be cut there; and their bytes.
    unit_elements: int
    unit_bytes: int

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """Elements start to stop, start at a unit's border. The same bytes whenever they are asked for.

        scratch: room for it, where the bytes may be written.
        """


class Encoder(Protocol):
    """How one worker's pushes are written, one after the other."""

    encoding: pb.Encoding

    def begun(self) -> Encoding:
        """For the push that is not settled yet, or a new one."""

    def settled(self, applied: bool, *, is_clean: bool = True) -> None:
        """That push has its outcome; harmless if there is none. is_clean: every sending of it has ended."""


class _Plain:
    """What keeps nothing from one push to the next."""

    def settled(self, applied: bool, *, is_clean: bool = True) -> None:
        """See Encoder."""


class Float32(_Plain):
    """As it is: nothing is copied."""

    encoding = pb.ENCODING_F32
    unit_elements, unit_bytes = 1, 4

    def begun(self) -> Encoding:
        """See Encoder."""
        return self

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """See Encoding."""
        return flat[start:stop].view(np.uint8)


class BFloat16(_Plain):
    """The upper half of a float32, rounded to nearest."""

    encoding = pb.ENCODING_BF16
    unit_elements, unit_bytes = 1, 2

    def begun(self) -> Encoding:
        """See Encoder."""
        return self

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """See Encoding."""
        from optimdpb.kernels import round_to_bfloat16

        halves: NDArray[np.uint16] = scratch[: 2 * (stop - start)].view(np.uint16)
        round_to_bfloat16(flat[start:stop], halves)
        return halves.view(np.uint8)


class Int8Blocks:
    """Blocks of int8 with error feedback. Takes as much memory as the gradient."""

    encoding = pb.ENCODING_INT8_BLOCK

    def __init__(self, elements: int) -> None:
        self._lost: NDArray[np.uint16] = np.zeros(elements, np.uint16)
        self._spare: NDArray[np.uint16] | None = np.zeros(elements, np.uint16)
        self._push = _Int8Push(self._lost, self._lost)
        self._is_open = False

    def begun(self) -> Encoding:
        """See Encoder."""
        if not self._is_open:
            spare, self._spare = self._spare, None
            self._push = _Int8Push(self._lost, np.empty_like(self._lost) if spare is None else spare)
            self._is_open = True
        return self._push

    def settled(self, applied: bool, *, is_clean: bool = True) -> None:
        """See Encoder. An interrupt may cut it off anywhere: done again, it comes to the same."""
        if not self._is_open:
            return
        before, after = self._push.lost, self._push.lost_after
        self._lost, other = (after, before) if applied else (before, after)
        # A sending that was cut off may write to the other one yet.
        self._spare = other if is_clean else None
        self._is_open = False


class _Int8Push:
    """Reads what was lost before it, writes what is lost after it."""

    encoding = pb.ENCODING_INT8_BLOCK
    unit_elements, unit_bytes = INT8_BLOCK_ELEMENTS, INT8_BLOCK_BYTES

    def __init__(self, lost: NDArray[np.uint16], lost_after: NDArray[np.uint16]) -> None:
        self.lost, self.lost_after = lost, lost_after

    def encode(self, flat: Float32s, start: int, stop: int, scratch: Bytes) -> Bytes:
        """See Encoding."""
        from optimdpb.kernels import to_int8_blocks

        payload = scratch[: encodings.payload_bytes(self.encoding, stop - start)]
        to_int8_blocks(flat[start:stop], self.lost[start:stop], self.lost_after[start:stop], payload)
        return payload


def encoder_of(dtype: str, elements: int) -> Encoder:
    """For pushes of a vector of so many elements."""
    if dtype == "float32" or 4 * elements <= PLAIN_BYTES_MAX:
        return Float32()
    return BFloat16() if dtype == "bfloat16" else Int8Blocks(elements)


class Payload:
    """A flat vector and how it is written. `flat` is read, not kept, each time it is sent."""

    def __init__(self, flat: Float32s, encoder: Encoder) -> None:
        self.flat = flat
        self._encoder = encoder.begun()

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
