"""The data directory of one server: who uses it, whether the last one ended in order, the snapshots of every job.

DIR/optimd.lock                          held by the server that runs on the directory; in it how many have started here
DIR/running                              there while one runs; found at a start, the last one was cut off
DIR/digits-1f0c…/00000007-step-1200/     a snapshot: seventh of its job, at global step 1200
DIR/digits-1f0c…/.aside-…/               one that was never finished; it is not looked at and goes with the next save
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from pathlib import Path

from optimdpb.errors import SnapshotRefused

from optimd_server.storage.snapshot import Snapshot, read_snapshot, write_snapshot

SNAPSHOTS_KEPT = 2
START_DIGITS = 20
_ASIDE = ".aside-"
_NAME = re.compile(r"(\d{8})-step-(\d+)")


class DataDirectory:
    """See Store. Raises OSError if the directory cannot be used or another server runs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / "optimd.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise OSError(f"{path} is in use by another server") from error
        self.unclean = self._running.exists()
        self.start = self._count_start()

    @property
    def _running(self) -> Path:
        return self.path / "running"

    def _count_start(self) -> int:
        """One more than stands in the lock file, and stands there from now on. 20 bytes are written whole or not."""
        before = os.pread(self._lock, START_DIGITS, 0).strip()
        if before and not before.isdigit():
            raise OSError(f"{self.path}/optimd.lock: expected a number of starts, got {before!r}")
        start = int(before or b"0") + 1
        os.pwrite(self._lock, f"{start:0{START_DIGITS}}".encode(), 0)
        os.fsync(self._lock)
        _sync_folder(self.path)
        return start

    def newest(self) -> list[Snapshot]:
        """The newest finished snapshot of every job, verified. Raises SnapshotRefused; an older one is never taken."""
        snapshots = []
        for folder in sorted(entry for entry in self.path.iterdir() if entry.is_dir()):
            finished = _finished(folder)
            if not finished:
                continue
            snapshot = read_snapshot(finished[-1])
            if folder.name != folder_name(snapshot.job):
                message = f"it is of job {snapshot.job!r}, which belongs in {folder_name(snapshot.job)}"
                raise SnapshotRefused(finished[-1], message)
            snapshots.append(snapshot)
        return snapshots

    def mark_running(self) -> None:
        """From now on what is served may run ahead of the snapshots."""
        self._running.touch()
        _sync_folder(self.path)

    def mark_ended(self) -> None:
        """Everything served is in the snapshots."""
        self._running.unlink(missing_ok=True)
        _sync_folder(self.path)

    def save(self, snapshot: Snapshot) -> Path:
        """Write aside, rename, forget the oldest. Returns where the snapshot is. Raises OSError, the others intact."""
        folder = self.path / folder_name(snapshot.job)
        folder.mkdir(exist_ok=True)
        _sync_folder(self.path)
        for left in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(left)
        finished = _finished(folder)
        serial = _serial(finished[-1]) + 1 if finished else 1
        name = f"{serial:08}-step-{snapshot.state['step']}"
        aside = folder / f"{_ASIDE}{name}"
        aside.mkdir()
        try:
            write_snapshot(aside, snapshot)
            aside.rename(folder / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _sync_folder(folder)
        for old in finished[: -(SNAPSHOTS_KEPT - 1)]:
            shutil.rmtree(old)
        return folder / name

    def close(self) -> None:
        """Let another server use the directory."""
        os.close(self._lock)


def folder_name(job: str) -> str:
    """Readable, a valid name for any job, and never the same for two."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", job)[:60]
    return f"{readable}-{hashlib.sha256(job.encode()).hexdigest()[:16]}"


def _finished(folder: Path) -> list[Path]:
    """Snapshots that were renamed, oldest first."""
    return sorted((entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)), key=_serial)


def _serial(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
