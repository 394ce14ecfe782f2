"""Vectors that are handed out to be read in place, and what becomes of writes to them all the same.

numpy keeps to an array's read-only flag; torch and others do not. In memory that may only be read such a write ends the
process, in other memory it would pass for the server's values. So what is handed out is a private mapping: a write goes
to a page of this process alone, the kernel tells which pages these are, and they are given back.
"""

from __future__ import annotations

import mmap
import os
import weakref

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]

_PAGEMAP = "/proc/self/pagemap"
_ENTRY_BYTES = 8
# The upper three bits of an entry (Documentation/admin-guide/mm/pagemap.rst): present, in swap, page of a file.
_STATE_SHIFT, _OF_FILE = 5, 1
# The upper bytes of pages that are not there, or are a file's.
_NOT_OWN = bytes(byte for byte in range(256) if byte >> _STATE_SHIFT <= _OF_FILE or byte >> _STATE_SHIFT & _OF_FILE)
PARTS_MAX = 16
PART_PAGES_MIN = 64


class Window:
    """`flat`: what `source`, a mapping of the descriptor's memory, holds at any time; it is only to be read.

    Raises OSError where the kernel would not tell of writes: copy there.
    """

    def __init__(self, descriptor: int, source: Float32s) -> None:
        self._mapped = mmap.mmap(descriptor, source.nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.flat: Float32s = np.frombuffer(memoryview(self._mapped).toreadonly(), np.float32)
        self._source = source
        self._first_page = self.flat.ctypes.data // mmap.PAGESIZE
        self._pages = -(-source.nbytes // mmap.PAGESIZE)
        self._part = max(PART_PAGES_MIN, -(-self._pages // PARTS_MAX))
        self._next = 0
        self._pagemap = os.open(_PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._pagemap)
        self._own_pages(0, self._pages)

    def changed(self, *, whole: bool) -> int | None:
        """The first element that was written to and is another by it, None for none; writes are undone then.

        whole: look at all of it; else at its next part, so that who looks PARTS_MAX times has seen all of it.
        """
        first, last = (0, self._pages) if whole else (self._next, min(self._next + self._part, self._pages))
        if not whole:
            self._next = last % self._pages
        found = self._own_pages(first, last)
        if not found:
            return None
        changed = self._first_difference(found)
        if changed is None:
            self._mapped.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)
        else:
            self._mapped.madvise(mmap.MADV_DONTNEED)
        return changed

    def _first_difference(self, pages: list[int]) -> int | None:
        step = mmap.PAGESIZE // self.flat.itemsize
        for start in (page * step for page in pages):
            mine, source = self.flat[start : start + step], self._source[start : start + step]
            found = np.flatnonzero(mine.view(np.uint32) != source.view(np.uint32))
            if found.size:
                return start + int(found[0])
        return None

    def _own_pages(self, first: int, last: int) -> list[int]:
        """Pages from first to before last that are this process's alone, because it has written to them."""
        size = (last - first) * _ENTRY_BYTES
        entries = os.pread(self._pagemap, size, (self._first_page + first) * _ENTRY_BYTES)
        if len(entries) != size:
            raise OSError(f"expected {size} bytes of {_PAGEMAP}, got {len(entries)}")
        upper = entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]
        if not upper.translate(None, _NOT_OWN):
            return []
        return [page for page, byte in enumerate(upper, first) if byte not in _NOT_OWN]


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
