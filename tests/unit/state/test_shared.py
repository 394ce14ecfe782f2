"""Memory to share: on the kernels there are, whatever the names."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
from typing import Any

import pytest
from optimd_server.state import SharedSegment, shared

NAME = f"optimd:{'j' * 128}:{'w' * 128}"
SIZE_BYTES = 5 * mmap.PAGESIZE + 4


def pages_of(segment: SharedSegment) -> int:
    """Pages of memory that it has."""
    return os.fstat(segment.fd).st_blocks * 512 // mmap.PAGESIZE


@pytest.mark.parametrize("read_only", [True, False])
def test_the_longest_names_of_job_and_worker_are_cut_to_what_the_kernel_takes(read_only: bool) -> None:
    segment = SharedSegment(NAME, 10, read_only=read_only)
    assert os.readlink(f"/proc/self/fd/{segment.fd}") == f"/memfd:{NAME[:249]} (deleted)"


class OldMap(mmap.mmap):
    """Of a kernel before 5.14."""

    def madvise(self, option: int, *_: Any) -> None:
        if option == shared.MADV_POPULATE_WRITE:
            raise OSError(errno.EINVAL, "Invalid argument")


def test_a_kernel_that_cannot_populate_has_its_pages_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.mmap, "mmap", OldMap)
    segment = SharedSegment("optimd:j:w", SIZE_BYTES // 4, read_only=True)
    assert pages_of(segment) == 6
    assert segment.values.size == SIZE_BYTES // 4
    assert not segment.values.any()


def test_no_memory_is_no_memory_also_where_pages_are_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A touch would kill the server."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared.mmap, "mmap", OldMap)
    monkeypatch.setattr(shared.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        SharedSegment("optimd:j:w", 10, read_only=True)


def test_a_kernel_that_cannot_keep_writers_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def old(fd: int, command: int, argument: int) -> int:
        if argument & shared.F_SEAL_FUTURE_WRITE:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, command, argument)

    monkeypatch.setattr(shared.fcntl, "fcntl", old)
    with pytest.raises(OSError, match=r"expected Linux 5\.1 or newer"):
        SharedSegment("optimd:j", 10, read_only=True)
    assert SharedSegment("optimd:j:w", 10, read_only=False).values.size == 10


def test_memory_that_could_not_be_made_closes_its_descriptor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second close would be of whatever has the number by then."""
    taken = os.dup(0)
    os.close(taken)
    monkeypatch.setattr(shared.fcntl, "fcntl", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    closed: list[int] = []
    real_close = os.close
    monkeypatch.setattr(shared.os, "close", lambda fd: (closed.append(fd), real_close(fd)))
    with pytest.raises(OSError, match="no"):
        SharedSegment("optimd:j:w", 10, read_only=False)
    gc.collect()
    assert closed == [taken]
