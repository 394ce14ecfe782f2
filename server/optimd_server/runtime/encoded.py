"""Parameters as the messages that go out: made once for each version and encoding, the same bytes for every puller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from optimdpb.checksum import crc32c
from optimdpb.errors import Refused
from optimdpb.frames import with_data
from optimdpb.kernels import round_to_bfloat16
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.events import Version
from optimd_server.optimizers.kernels import Float32s
from optimd_server.runtime.shards import ShardGroup


@dataclass(eq=False)
class EncodedParameters:
    """One version as messages. `readers`: how many take them at the moment."""

    version: Version
    chunks: list[bytes]
    payload_bytes: int
    readers: int = 0
    cut: bool = False

    def read(self) -> Iterator[bytes]:
        """The messages in order. Raises Refused(PULL_TOO_SLOW) once their memory was wanted back."""
        self.readers += 1
        try:
            yield from self.chunks
            if self.cut:
                raise Refused("PULL_TOO_SLOW", "newer versions are being sent: pull again")
        finally:
            self.readers -= 1

    def take_back(self) -> None:
        """Who still reads it is cut off."""
        self.cut = True
        self.chunks.clear()


class ParameterMessages:
    """The messages of a job's current version. `made`: how often it was encoded.

    At most versions_max versions are kept alive by who still reads them; the oldest is taken back for a new one.
    """

    def __init__(self, shards: ShardGroup, versions_max: int) -> None:
        self._shards = shards
        self._versions_max = versions_max
        self._current: dict[bool, EncodedParameters] = {}
        self._still_read: list[EncodedParameters] = []
        self.made = 0

    def known(self, version: Version, *, bfloat16: bool) -> EncodedParameters | None:
        """If they were made of this version."""
        found = self._current.get(bfloat16)
        return found if found is not None and found.version == version else None

    def forget_all(self) -> None:
        """Keep none; who reads one reads it to its end."""
        self._current.clear()
        self._still_read.clear()

    def make(self, version: Version, bfloat16: bool) -> EncodedParameters:
        """Of this version, which no update may change meanwhile."""
        old = self._current.pop(bfloat16, None)  # the old bytes go before the new ones come
        self._still_read = [each for each in [*self._still_read, old] if each is not None and each.readers]
        while len(self._still_read) >= self._versions_max:
            self._still_read.pop(0).take_back()
        chunks: list[bytes] = []
        write = _bfloat16 if bfloat16 else _float32
        self._shards.each_chunk(lambda element, values: chunks.append(write(element, values)))
        self.made += 1
        payload_bytes = self._shards.size_bytes // (2 if bfloat16 else 1)
        encoded = self._current[bfloat16] = EncodedParameters(version, chunks, payload_bytes)
        return encoded


def _float32(element: int, values: Float32s) -> bytes:
    data = values.view("u1")
    return with_data(pb.PullResponse(offset_bytes=4 * element, crc32c=crc32c(data)), data)


def _bfloat16(element: int, values: Float32s) -> bytes:
    halves = np.empty(values.size, np.uint16)
    round_to_bfloat16(values, halves)
    data = halves.view("u1")
    return with_data(pb.PullResponse(offset_bytes=2 * element, crc32c=crc32c(data)), data)
