"""Keeping freed memory: a server that gives it back to the system has it zeroed anew for every message.

By default glibc maps each block above 128 KiB (later 32 MiB) by itself and unmaps it when it is freed. Streams of 1 MiB
messages then spend most of their time in page faults.
"""

from __future__ import annotations

import ctypes
import logging

log = logging.getLogger(__name__)

# Parameters of mallopt(3), and what they are set to.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MIB = 1 << 20
SETTINGS = ((M_MMAP_THRESHOLD, 32 * MIB), (M_TRIM_THRESHOLD, 256 * MIB), (M_TOP_PAD, 64 * MIB))


def keep_freed_memory() -> bool:
    """Let this process hold up to 256 MiB that it has freed. False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.info("no mallopt: large messages may be slower")
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in SETTINGS)
