"""Vectors that are handed out to be read in place, and what becomes of writes to them all the same.

numpy keeps to an array's read-only flag; torch and others do not. In memory that may only be read such a write ends the
process, in other memory it would pass for the server's values. So what is handed out is a private mapping: a write goes
to a page of this process alone, the kernel tells which pages these are, and they are given back.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]

_PAGEMAP = "/proc/self/pagemap"
_ENTRY_BYTES = 8
# The upper three bits of an entry (Documentation/admin-guide/mm/pagemap.rst): present, in swap, page of a file.
_STATE_SHIFT = np.uint64(61)
_OF_FILE = np.uint64(1)


class Window:
    """`flat`: what `source`, a mapping of the descriptor's memory, holds at any time; it is only to be read.

    Raises OSError where the kernel would not tell of writes: copy there.
    """

    def __init__(self, descriptor: int, source: Float32s) -> None:
        self._mapped = mmap.mmap(descriptor, source.nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.flat: Float32s = np.frombuffer(memoryview(self._mapped).toreadonly(), np.float32)
        self._source = source
        self._own_pages()

    def changed(self) -> int | None:
        """The first element that was written to and is another by it, None for none; writes to it are undone."""
        pages = self._own_pages()
        if not pages:
            return None
        step = mmap.PAGESIZE // self.flat.itemsize
        for start in (page * step for page in pages):
            stop = start + step
            found = np.flatnonzero(self.flat[start:stop].view(np.uint32) != self._source[start:stop].view(np.uint32))
            if found.size:
                first = start + int(found[0])
                break
        else:
            first = None
        self._mapped.madvise(mmap.MADV_DONTNEED)
        return first

    def _own_pages(self) -> list[int]:
        """Pages of this process alone, because it has written to them."""
        first, pages = self.flat.ctypes.data // mmap.PAGESIZE, -(-self.flat.nbytes // mmap.PAGESIZE)
        pagemap = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
        try:
            entries = np.frombuffer(os.pread(pagemap, pages * _ENTRY_BYTES, first * _ENTRY_BYTES), np.uint64)
        finally:
            os.close(pagemap)
        if entries.size != pages:
            raise OSError(f"expected {pages} entries of {_PAGEMAP}, got {entries.size}")
        state = entries >> _STATE_SHIFT
        return [int(page) for page in np.flatnonzero((state > _OF_FILE) & (state & _OF_FILE == 0))]


def window_over(descriptor: int, source: Float32s) -> Window | None:
    """A window on that memory; None where there can be none: no Linux, or one without /proc."""
    try:
        return Window(descriptor, source)
    except (OSError, AttributeError):
        return None


class Place:
    """Memory that parameters are received into over and over: `own`, to be written, and the window to hand out."""

    def __init__(self, own: Float32s, window: Window) -> None:
        self.own = own
        self.window = window


def place_of(elements: int) -> Place | None:
    """Memory for so many parameters; None where it could be handed out by no window."""
    try:
        descriptor = os.memfd_create("optimd-parameters", os.MFD_CLOEXEC)
    except (OSError, AttributeError):
        return None
    try:
        os.ftruncate(descriptor, elements * 4)
        own: Float32s = np.frombuffer(mmap.mmap(descriptor, elements * 4), np.float32)
        return Place(own, Window(descriptor, own))
    except (OSError, ValueError):  # nothing can be mapped that has no bytes
        return None
    finally:
        os.close(descriptor)
