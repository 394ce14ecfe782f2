"""A gradient on its way in: chunks in order, copied once into the shards' buffers and scanned while still in cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from optimdpb.blocks import INT8_BLOCK_BYTES
from optimdpb.checksum import crc32c
from optimdpb.errors import Refused

from optimd_server.optimizers.kernels import Float32s, magnitude_max, magnitude_max_of_blocks
from optimd_server.state.shard import Gradient

Bytes = NDArray[np.uint8]
# Copied at a time, so that it is scanned while it is in the core's own cache.
SCAN_BYTES = 256 * 1024


class ChunkedVector:
    """A flat vector that arrives as chunks of bytes, in order, into consecutive destination arrays of one dtype.

    Writes into `parts`, which it does not own; as uint8 they take blocks of int8. `magnitude_max` is the largest
    |element| so far, infinity if one is not finite. A refused chunk changes nothing but bytes past the ones received so
    far.
    """

    def __init__(self, parts: Sequence[Gradient | Bytes], chunk_bytes_max: int) -> None:
        self._parts = [part.view(np.uint8) for part in parts if part.size]
        self._chunk_bytes_max = chunk_bytes_max
        self._dtype = parts[0].dtype
        self._unit_bytes = INT8_BLOCK_BYTES if self._dtype == np.uint8 else self._dtype.itemsize
        self._scan_bytes = SCAN_BYTES // self._unit_bytes * self._unit_bytes
        self.payload_bytes = sum(part.nbytes for part in self._parts)
        self.received_bytes = 0
        self.magnitude_max = 0.0
        self._part = 0
        self._part_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.received_bytes == self.payload_bytes

    def write(self, offset_bytes: int, data: Bytes, checksum: int | None) -> None:
        """Take the next chunk.

        Raises Refused(CHUNK_OUT_OF_ORDER, PAYLOAD_SIZE_MISMATCH, CHECKSUM_MISMATCH, MALFORMED_REQUEST).
        """
        if not data.size:
            return
        self._check(offset_bytes, data, checksum)
        source = data
        while source.size:
            part = self._parts[self._part]
            room = part.nbytes - self._part_bytes
            count = min(room, source.size, self._scan_bytes)
            written = part[self._part_bytes : self._part_bytes + count]
            written[:] = source[:count]
            self.magnitude_max = max(self.magnitude_max, self._largest(written))
            source = source[count:]
            self._part_bytes += count
            if self._part_bytes == part.nbytes:
                self._part, self._part_bytes = self._part + 1, 0
        self.received_bytes += data.size

    def check_complete(self) -> None:
        """Raises Refused(PAYLOAD_SIZE_MISMATCH) unless every byte is there."""
        if not self.complete:
            raise _size_mismatch(self.payload_bytes, self.received_bytes)

    def _largest(self, written: Bytes) -> float:
        if self._dtype == np.uint8:
            return magnitude_max_of_blocks(written)
        return magnitude_max(written.view(self._dtype))

    def _check(self, offset_bytes: int, data: Bytes, checksum: int | None) -> None:
        if offset_bytes != self.received_bytes:
            message = f"expected the chunk at byte {self.received_bytes}, got the one at byte {offset_bytes}"
            raise Refused("CHUNK_OUT_OF_ORDER", message, expected=self.received_bytes, got=offset_bytes)
        cut = data.size % self._unit_bytes and offset_bytes + data.size != self.payload_bytes
        if data.size > self._chunk_bytes_max or cut:
            message = f"expected a chunk of at most {self._chunk_bytes_max} bytes, a multiple of {self._unit_bytes}, "
            fits = min(data.size, self._chunk_bytes_max) // self._unit_bytes * self._unit_bytes
            raise Refused("CHUNK_OUT_OF_ORDER", f"{message}got {data.size}", expected=fits, got=data.size)
        if offset_bytes + data.size > self.payload_bytes:
            raise _size_mismatch(self.payload_bytes, offset_bytes + data.size)
        actual = crc32c(data)
        if checksum != actual:
            message = f"chunk at byte {offset_bytes}: expected crc32c {actual:#010x}, got "
            if (
                not checksum
            ):  # forgotten, or left at the default that some languages send: not damage, so never to be retried
                raise Refused("MALFORMED_REQUEST", f"{message}{'none' if checksum is None else '0'}", field="crc32c")
            raise Refused(
                "CHECKSUM_MISMATCH", f"{message}{checksum:#010x}", expected=f"{actual:#010x}", got=f"{checksum:#010x}"
            )


class Claim:
    """A push's place in staging. Closed when another attempt, a newer epoch or the end of its lease takes it.

    on_close: called then.
    """

    def __init__(self, worker: str, epoch: int) -> None:
        self.worker = worker
        self.epoch = epoch
        self.closed = False
        self.on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """The place is another's."""
        self.closed = True
        if self.on_close is not None:
            self.on_close()

    def check_open(self) -> None:
        """Raises Refused(PUSH_SUPERSEDED) once closed."""
        if self.closed:
            text = "another attempt, a newer epoch or an ended lease took this push's place"
            raise Refused("PUSH_SUPERSEDED", text, worker=self.worker, epoch=self.epoch)


class StagedGradient(ChunkedVector, Claim):
    """A push's payload on its way in."""

    def __init__(self, worker: str, epoch: int, parts: Sequence[Gradient | Bytes], chunk_bytes_max: int) -> None:
        ChunkedVector.__init__(self, parts, chunk_bytes_max)
        Claim.__init__(self, worker, epoch)

    def write(self, offset_bytes: int, data: Bytes, checksum: int | None) -> None:
        """As ChunkedVector.write; raises Refused(PUSH_SUPERSEDED) once closed."""
        self.check_open()
        super().write(offset_bytes, data, checksum)


class SharedGradient(Claim):
    """A push's payload that is here already, in memory which its worker leaves alone until there is an outcome."""

    def __init__(self, worker: str, epoch: int, values: Float32s) -> None:
        super().__init__(worker, epoch)
        self.values = values


def _size_mismatch(expected_bytes: int, got_bytes: int) -> Refused:
    message = f"expected a payload of {expected_bytes} bytes, got {got_bytes}"
    return Refused("PAYLOAD_SIZE_MISMATCH", message, expected=expected_bytes, got=got_bytes)
