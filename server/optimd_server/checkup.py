"""Checks of this machine, as a server or its workers would find it, for `optimd doctor`."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from optimdpb.findings import Finding
from optimdpb.machine import ROOT, cores, memory_bytes

PYTHON_LOWEST = (3, 11)
MEMORY_BYTES_MIN = 512 << 20
# Each worker takes two descriptors or so, and the thousandth must not be turned away.
OPEN_FILES_MIN = 4096
# A round waits for its journal or snapshot: a disk slower than that is felt.
SYNC_S_MAX = 0.05
_SYNCS = 15
_TIME_ERROR = 5
_TIMEX_BYTES = 512
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+).*>=(?P<least>[\d.]+)")


def findings(data_dir: Path | None) -> Iterator[Finding]:
    """All of them. data_dir: where a server would save; None: a temporary folder stands in."""
    yield python(sys.version_info[:2])
    yield packages(requires("optimd") or [], version)
    yield processor(cores(), os.cpu_count() or 1)
    yield memory(memory_bytes(), _physical_bytes())
    yield shared_memory(os.memfd_create)
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield kernel_cache(os.environ.get("NUMBA_CACHE_DIR", ""))
    yield disk(data_dir)
    yield clock(_clock_state())


def python(running: tuple[int, ...]) -> Finding:
    """Its version."""
    found, least = (".".join(map(str, each)) for each in (running, PYTHON_LOWEST))
    if running < PYTHON_LOWEST:
        return Finding("python", "bad", f"Python {found}", f"use Python {least} or newer")
    return Finding("python", "ok", f"Python {found}")


def packages(required: list[str], version_of: Callable[[str], str]) -> Finding:
    """What the program needs to be installed, at least as new as it says."""
    wrong, count = [], 0
    for line in required:
        requirement, _, marker = line.partition(";")
        parts = _REQUIREMENT.match(requirement)
        if parts is None or "extra" in marker:
            continue
        name, least = parts["name"], parts["least"]
        count += 1
        try:
            has = version_of(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if _numbers(has) < _numbers(least):
            wrong.append(f"{name} {has} is older than {least}")
    if wrong:
        return Finding("packages", "bad", "; ".join(wrong), "run: pip install --upgrade optimd")
    return Finding("packages", "ok", f"{count} packages at the versions needed")


def processor(usable: int, there: int) -> Finding:
    """Cores, as far as affinity and quota leave them."""
    found = f"{usable} of {there} cores"
    if usable < there:
        return Finding("cores", "note", f"{found}: affinity or a container's quota leaves no more")
    return Finding("cores", "ok", found)


def memory(usable_bytes: int, there_bytes: int) -> Finding:
    """Memory, as far as control groups leave it."""
    found = f"{usable_bytes / 2**30:.1f} of {there_bytes / 2**30:.1f} GiB"
    if usable_bytes < MEMORY_BYTES_MIN:
        remedy = "a server takes 300 MiB before the first job: raise the container's memory limit"
        return Finding("memory", "bad", found, remedy)
    if usable_bytes < there_bytes:
        return Finding("memory", "note", f"{found}: a container's limit leaves no more")
    return Finding("memory", "ok", found)


def shared_memory(create: Callable[[str, int], int]) -> Finding:
    """Whether memory can be made, sealed and handed to a worker on this machine."""
    size_bytes = 1 << 20
    try:
        fd = create("optimd-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        finally:
            os.close(fd)
    except OSError as error:
        remedy = "workers on this machine go by gRPC, which is slower: allow memfd_create in the container's profile"
        return Finding("shared memory", "bad", f"cannot be made: {error}", remedy)
    return Finding("shared memory", "ok", "can be made and sealed")


def open_files(hard_limit: int) -> Finding:
    """Every worker is a connection."""
    if hard_limit != resource.RLIM_INFINITY and hard_limit < OPEN_FILES_MIN:
        remedy = f"raise it for many workers: ulimit -Hn {OPEN_FILES_MIN}, or LimitNOFILE= in a unit"
        return Finding("open files", "bad", f"at most {hard_limit}", remedy)
    return Finding("open files", "ok", "no limit" if hard_limit == resource.RLIM_INFINITY else f"at most {hard_limit}")


def kernel_cache(folder: str) -> Finding:
    """Where compiled kernels are kept."""
    if not folder or not os.access(folder, os.W_OK):
        remedy = "set NUMBA_CACHE_DIR to a folder of your own that lasts: else each start compiles for a minute"
        return Finding("kernel cache", "bad", f"{folder or 'no folder'} cannot be written", remedy)
    if Path(folder).is_relative_to(tempfile.gettempdir()) and "optimd-kernels-" in folder:
        remedy = "set HOME, XDG_CACHE_HOME or NUMBA_CACHE_DIR to a folder that can be written and lasts"
        return Finding("kernel cache", "note", f"{folder} is temporary: each start compiles for a minute", remedy)
    return Finding("kernel cache", "ok", folder)


def disk(data_dir: Path | None, sync: Callable[[int], None] = os.fsync) -> Finding:
    """Whether it can be written, and how long a small write takes until it is there."""
    folder = data_dir or Path(tempfile.gettempdir())
    what = "disk" if data_dir is None else "data directory"
    took_s = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(_SYNCS):
                started_s = time.perf_counter()
                os.pwrite(file.fileno(), bytes(4096), 0)
                sync(file.fileno())
                took_s.append(time.perf_counter() - started_s)
    except OSError as error:
        remedy = "give the server's user a folder that it may write to, with space left"
        return Finding(what, "bad", f"{folder} cannot be written: {error}", remedy)
    median_s = statistics.median(took_s)
    found = f"{folder}: {median_s * 1e3:.1f} ms until 4 KiB are there"
    if median_s > SYNC_S_MAX:
        return Finding(what, "bad", found, "put the data directory on a local disk: saving will be slow here")
    return Finding(what, "ok", found)


def clock(state: int) -> Finding:
    """Whether something sets the machine's clock."""
    if state == _TIME_ERROR:
        remedy = "dates in logs may be wrong (nothing else depends on them): run chrony or systemd-timesyncd"
        return Finding("clock", "note", "nothing keeps this machine's clock in time", remedy)
    return Finding("clock", "ok", "kept in time" if state >= 0 else "cannot be asked about")


def _clock_state() -> int:
    """As adjtimex says; -1 where there is none."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (AttributeError, OSError):
        return -1


def _physical_bytes() -> int:
    return memory_bytes(ROOT / "nowhere")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
