"""Memory that another process on this machine can map: a sealed memfd, made, filled with zeros and owned by the server.

It has no name, so nothing is left behind when either side is killed, and no mount whose size it could exceed. It cannot
shrink, so no access ever faults; a segment that is only to be read cannot be mapped for writing by anybody else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import platform

import numpy as np
from numpy.typing import NDArray

from optimd_server.optimizers.kernels import Float32s

# Of Linux 5.1 and 5.14; Python 3.11 has no names for them.
F_SEAL_FUTURE_WRITE = 0x10
MADV_POPULATE_WRITE = 23
# Longer names the kernel refuses; they are for people who look into /proc.
NAME_BYTES_MAX = 249


class SharedSegment:
    """`elements` float32 in memory of their own. `fd` is open until close_fd(); the memory lives as long as `values`.

    read_only: for everybody but this process. populate: take all its memory now. Raises OSError where there is none.
    """

    def __init__(self, name: str, elements: int, *, read_only: bool, populate: bool = True) -> None:
        size_bytes = max(elements * 4, 1)
        self.fd = os.memfd_create(name[:NAME_BYTES_MAX], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size_bytes)
            mapped = mmap.mmap(self.fd, size_bytes)
            with contextlib.suppress(OSError):  # where the system gives none, small pages do as well
                mapped.madvise(mmap.MADV_HUGEPAGE)
            if populate:  # a first touch later costs twenty times a later one, and kills where memory has run out
                _populate(self.fd, mapped)
            _seal(self.fd, read_only=read_only)
        except BaseException:
            self.close_fd()
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


def _populate(fd: int, mapped: mmap.mmap) -> None:
    """Take all its memory. Raises OSError where there is not so much."""
    try:
        mapped.madvise(MADV_POPULATE_WRITE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.posix_fallocate(fd, 0, len(mapped))  # an older kernel; this fails where a touch would kill
        pages = np.frombuffer(mapped, np.uint8)[:: mmap.PAGESIZE]
        pages[:] = 0


def _seal(fd: int, *, read_only: bool) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | (F_SEAL_FUTURE_WRITE if read_only else 0))
    except OSError as error:
        if not read_only or error.errno != errno.EINVAL:
            raise
        message = f"expected Linux 5.1 or newer, which keeps others from writing to memory, got {platform.release()}"
        raise OSError(error.errno, message) from error
