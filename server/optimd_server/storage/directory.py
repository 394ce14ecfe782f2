"""The data directory of one server: who uses it, what may be missing in it, the snapshots of every job.

DIR/optimd.lock                          held by the server that runs on the directory; in it how many have started here
DIR/running                              there while one runs; found at a start, the last one was cut off
DIR/digits-1f0c…/00000007-step-1200/     a snapshot: seventh of its job, at global step 1200
DIR/digits-1f0c….lacking                 more was acknowledged than its newest snapshot holds; goes with the next save
DIR/digits-1f0c…/.aside-…/               one that was never finished, or is being forgotten; it is not looked at
DIR/digits-1f0c….deleted-00000001/       of a job that was deleted; not looked at, unless it is renamed to what it was
DIR/digits-1f0c…/lacking                 as the file beside the folder; goes where the folder goes
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from optimdpb.errors import SnapshotRefused

from optimd_server.storage.base import STARTS_MAX, Stored
from optimd_server.storage.snapshot import FILE_MODE, Snapshot, name_in, read_snapshot, sync, write_snapshot

SNAPSHOTS_KEPT = 2
START_DIGITS = 20
FOLDER_MODE = 0o700
_ASIDE = ".aside-"
_DELETED = ".deleted-"
_LACKING = "lacking"
_NAME = re.compile(r"(\d{8,})-step-(\d+)")
_FOLDER = re.compile(r"[A-Za-z0-9_-]{0,60}-[0-9a-f]{16}")


class DataDirectory:
    """See Store. Raises OSError if the directory cannot be used or another server runs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        self._lock = os.open(path / "optimd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            self._take_lock()
            self._unclean = self._running.exists()
            self.start = self._count_start()
        except BaseException:
            os.close(self._lock)
            raise
        # By folder: why nothing is to be done with it. Those that another server may have to fork: see mark_running.
        self._refused: dict[str, str] = {}
        self._lacking: set[str] = set()
        self._writing: set[Path] = set()

    @property
    def _running(self) -> Path:
        return self.path / "running"

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(f"{self.path} is in use by another server") from error
        if os.fstat(self._lock).st_uid == os.geteuid():
            os.fchmod(self._lock, FILE_MODE)  # whoever may read it can lock it

    def _count_start(self) -> int:
        """One more than stands in the lock file, and stands there from now on. 20 bytes are written whole or not."""
        before = os.pread(self._lock, START_DIGITS, 0).strip()
        if before and not before.isdigit():
            raise OSError(f"{self.path}/optimd.lock: expected a number of starts, got {before!r}")
        start = int(before or b"0") + 1
        if start > STARTS_MAX:
            raise OSError(f"{self.path}/optimd.lock: expected at most {STARTS_MAX} starts, got {start}: is it damaged?")
        try:
            os.pwrite(self._lock, f"{start:0{START_DIGITS}}".encode(), 0)
            os.fsync(self._lock)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{self.path}/optimd.lock") from error
        sync(self.path)
        return start

    def _check_lock(self) -> None:
        """Raises OSError if the directory was deleted or replaced: another server may have locked what is there now."""
        held = os.fstat(self._lock)
        try:
            there = (self.path / "optimd.lock").stat()
        except OSError as error:
            raise OSError(f"{self.path} is not the directory that this server locked: {error}") from error
        if (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            raise OSError(f"{self.path} is not the directory that this server locked: it was deleted and made anew")

    def stored(self) -> Iterator[Stored]:
        """See Store. What a crash has left half written is removed."""
        for folder in sorted(entry for entry in self.path.iterdir() if _FOLDER.fullmatch(entry.name)):
            try:
                self._remove_asides(folder)
                finished = _finished(folder)
                if not finished:
                    continue
                snapshot = read_snapshot(finished[-1])
                if folder.name != folder_name(snapshot.job):
                    message = f"it is of job {snapshot.job!r}, which belongs in {folder_name(snapshot.job)}"
                    raise SnapshotRefused(finished[-1], message)
                is_whole = not self._unclean and not any(mark.exists() for mark in self._marks_of(folder.name))
            except (OSError, MemoryError, ValueError, SnapshotRefused) as error:
                problem = str(error) or type(error).__name__
                self._refused[folder.name] = problem
                self._lacking.add(folder.name)  # what is loaded from here one day may be older than what is there
                yield Stored(_readable_name(folder), None, problem, is_whole=False)
                continue
            if not is_whole:
                self._lacking.add(folder.name)
            yield Stored(snapshot.job, snapshot, is_whole=is_whole)

    def refuse(self, job: str, problem: str) -> None:
        """See Store."""
        self._refused[folder_name(job)] = problem

    def refusal(self, job: str) -> str:
        """See Store."""
        return self._refused.get(folder_name(job), "") or self._refused.get(job, "")

    def mark_running(self) -> None:
        """See Store. What could not be restored is not served: it keeps a mark of its own."""
        self._check_lock()
        for name in sorted(self._refused.keys() & self._lacking):
            _touch(self._mark_of(name))
        try:
            _touch(self._running)
            sync(self.path)
        except BaseException:
            if not self._unclean:  # nothing was served: the next server has lost nothing
                self._running.unlink(missing_ok=True)
            raise

    def mark_ended(self, unsaved: Collection[str]) -> None:
        """See Store. Raises OSError, with every job marked as lacking, if the marks cannot be written."""
        self._check_lock()
        for job in sorted(unsaved):
            if (self.path / folder_name(job)).exists():  # without a snapshot there is nothing to restore
                _touch(self._mark_of(folder_name(job)))
        sync(self.path)
        self._running.unlink(missing_ok=True)
        sync(self.path)

    def save(self, snapshot: Snapshot) -> Path:
        """Write aside, rename, forget the oldest. Returns where the snapshot is. Raises OSError, the others intact."""
        self._check_lock()
        folder = self.path / folder_name(snapshot.job)
        if folder.name in self._refused:
            raise OSError(f"{folder} holds a snapshot that was not restored: {self._refused[folder.name]}")
        folder.mkdir(FOLDER_MODE, exist_ok=True)
        sync(self.path)
        self._remove_asides(folder)
        finished = _finished(folder)
        serial = _serial(finished[-1]) + 1 if finished else 1
        name = f"{serial:08}-step-{snapshot.state['step']}"
        aside = folder / f"{_ASIDE}{name}-{secrets.token_hex(8)}"
        self._writing.add(aside)
        try:
            aside.mkdir(FOLDER_MODE)
            write_snapshot(aside, snapshot)
            self._check_lock()
            aside.rename(folder / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            self._writing.discard(aside)
        sync(folder)
        for mark in self._marks_of(folder.name):
            mark.unlink(missing_ok=True)
        self._forget(finished[: -(SNAPSHOTS_KEPT - 1)])
        return folder / name

    def make_room(self, job: str) -> None:
        """See Store."""
        folder = self.path / folder_name(job)
        if folder.exists() and folder.name not in self._refused:
            self._check_lock()
            self._forget(_finished(folder)[:-1])

    def remove(self, job: str, *, for_good: bool) -> tuple[bool, str]:
        """See Store. Under a new name, so that a new job of this name has a folder of its own."""
        self._check_lock()
        folder = self.path / (job if job in self._refused else folder_name(job))
        aside = sorted(self.path.glob(f"{folder.name}{_DELETED}*"))
        if folder.exists():
            if not for_good:  # whoever brings it back goes on behind what was acknowledged
                _touch(folder / _LACKING)
            number = 1 + max((int(old.name.rpartition("-")[2]) for old in aside), default=0)
            aside.append(folder.rename(folder.with_name(f"{folder.name}{_DELETED}{number:08}")))
        self._mark_of(folder.name).unlink(missing_ok=True)
        self._refused.pop(folder.name, None)
        self._lacking.discard(folder.name)
        if for_good:
            for old in aside:
                shutil.rmtree(old, ignore_errors=True)
        sync(self.path)
        kept = [old for old in aside if old.exists()]
        return bool(aside), str(kept[-1]) if kept else ""

    def close(self) -> None:
        """See Store."""
        os.close(self._lock)

    def _mark_of(self, folder: str) -> Path:
        """Beside the job's folder: it must not depend on what is wrong with that."""
        return self.path / f"{folder}.lacking"

    def _marks_of(self, folder: str) -> tuple[Path, Path]:
        """Of them, and the one of a job that was deleted and brought back."""
        return self._mark_of(folder), self.path / folder / _LACKING

    def _forget(self, snapshots: list[Path]) -> None:
        """Never seen in part: it is no snapshot any more before its first file goes. One that stays harms nobody."""
        for old in snapshots:
            aside = old.with_name(f"{_ASIDE}{old.name}-{secrets.token_hex(8)}")
            with contextlib.suppress(OSError):
                old.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)

    def _remove_asides(self, folder: Path) -> None:
        """What a crash has left. One that cannot be removed harms nobody: its name is not used again."""
        for left in folder.glob(f"{_ASIDE}*"):
            if left not in self._writing:
                shutil.rmtree(left, ignore_errors=True)


def folder_name(job: str) -> str:
    """Readable, a valid name for any job, and never the same for two."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", job)[:60]
    return f"{readable}-{hashlib.sha256(job.encode()).hexdigest()[:16]}"


def _readable_name(folder: Path) -> str:
    """The job whose snapshots are here, as far as one of them still says so; else the folder's name."""
    try:
        for snapshot in reversed(_finished(folder)):
            name = name_in(snapshot)
            if name and folder_name(name) == folder.name:
                return name
    except (OSError, ValueError):
        pass
    return folder.name


def _finished(folder: Path) -> list[Path]:
    """Snapshots that were renamed, oldest first."""
    return sorted((entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)), key=_serial)


def _serial(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
