"""Memory that another process on this machine can map: a sealed memfd, made, filled with zeros and owned by the server.

It has no name, so nothing is left behind when either side is killed, and no mount whose size it could exceed. It cannot
shrink, so no access ever faults; a segment that is only to be read cannot be mapped for writing by anybody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from optimd_server.optimizers.kernels import Float32s

# Of Linux 5.1 and 5.14; Python 3.11 has no names for them.
F_SEAL_FUTURE_WRITE = 0x10
MADV_POPULATE_WRITE = 23


class SharedSegment:
    """`elements` float32 in memory of their own. `fd` is open until close_fd(); the memory lives as long as `values`.

    read_only: for everybody but this process. populate: take all its memory now. Raises OSError where there is none.
    """

    def __init__(self, name: str, elements: int, *, read_only: bool, populate: bool = True) -> None:
        size_bytes = max(elements * 4, 1)
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size_bytes)
            mapped = mmap.mmap(self.fd, size_bytes)
            with contextlib.suppress(OSError):  # where the system gives none, small pages do as well
                mapped.madvise(mmap.MADV_HUGEPAGE)
            if populate:  # a first touch later costs twenty times a later one, and kills where memory has run out
                mapped.madvise(MADV_POPULATE_WRITE)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | (F_SEAL_FUTURE_WRITE if read_only else 0)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
        except BaseException:
            os.close(self.fd)
            raise
        data: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
        self.values: Float32s = data[: elements * 4].view(np.float32)

    def close_fd(self) -> None:
        """Nobody else will get it any more; harmless when called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close_fd()
