"""The simulated twin of a data directory: keeps what was saved through crashes, fails on demand."""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from optimd_server.core.plain import json_line, of_json_line
from optimd_server.storage import Snapshot, Stored

from tests.simulation.checkers import require


class SimulatedDisk:
    """What survives a crash. `full()`: whether the next save fails. `lacking`: jobs that were not saved at the end.

    write(): takes the time that it takes, on the thread of whoever saves. failing: jobs that cannot be saved;
    refused: those that could not. removed(job): nothing is saved of it any more.
    """

    def __init__(self, full: Callable[[], bool], write: Callable[[], None], removed: Callable[[str], None]) -> None:
        self.full = full
        self.write = write
        self.removed = removed
        self.failing: set[str] = set()
        self.refused: set[str] = set()
        self.running = False
        self.lacking: set[str] = set()
        self.saved: dict[str, Snapshot] = {}
        self.saves = 0
        self.starts = 0

    def is_whole(self, job: str) -> bool:
        """Whether nothing that was acknowledged is missing in what is saved of the job."""
        return not self.running and job not in self.lacking


class SimulatedStore:
    """optimd_server.storage.Store for one server process on a disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        self._writing: set[str] = set()
        disk.starts += 1
        self.start = disk.starts

    def stored(self) -> Iterator[Stored]:
        """See Store."""
        for job, snapshot in sorted(self._disk.saved.items()):
            yield Stored(job, copy.deepcopy(snapshot), is_whole=self._disk.is_whole(job))

    def refuse(self, job: str, problem: str) -> None:
        """See Store. Here it is a defect."""
        raise AssertionError(f"job {job} was saved and cannot be restored: {problem}")

    def refusal(self, job: str) -> str:
        """See Store."""
        return ""

    def mark_running(self) -> None:
        """See Store."""
        self._disk.running = True

    def mark_ended(self, unsaved: Collection[str]) -> None:
        """See Store."""
        self._disk.lacking |= set(unsaved) & self._disk.saved.keys()
        self._disk.running = False

    def save(self, snapshot: Snapshot) -> Path:
        """See Store. What is plain must survive JSON, as it must in a manifest."""
        disk = self._disk
        require(snapshot.job not in self._writing, f"job {snapshot.job} is saved twice at once")
        self._writing.add(snapshot.job)
        try:
            disk.write()
            if disk.full():
                raise OSError(errno.ENOSPC, "no space left on the simulated disk")
            if snapshot.job in disk.failing:
                raise OSError(errno.EACCES, "the simulated disk has something against this job")
        except OSError:
            disk.refused.add(snapshot.job)
            raise
        finally:
            self._writing.remove(snapshot.job)
        disk.saves += 1
        state = of_json_line(json_line(snapshot.state))
        disk.saved[snapshot.job] = Snapshot(snapshot.job, snapshot.spec, state, copy.deepcopy(snapshot.shards))
        disk.lacking.discard(snapshot.job)
        return Path(f"simulated/{snapshot.job}/{disk.saves}")

    def make_room(self, job: str) -> None:
        """See Store."""

    def remove(self, job: str, *, for_good: bool) -> tuple[bool, str]:
        """See Store."""
        disk = self._disk
        require(job not in self._writing, f"job {job} is removed while it is saved")
        disk.write()
        if job in disk.failing:
            raise OSError(errno.EACCES, "the simulated disk has something against this job")
        disk.lacking.discard(job)
        found = disk.saved.pop(job, None) is not None
        disk.removed(job)
        return found, "simulated/aside" if found and not for_good else ""

    def close(self) -> None:
        """See Store."""


class FailingFile:
    """What an event log writes to: takes so many lines, then fails for ever."""

    def __init__(self, lines: int) -> None:
        self._left = lines
        self.closed = False

    def write(self, text: str) -> None:
        """See IO."""
        self._left -= 1
        if self._left < 0:
            raise OSError(errno.ENOSPC, "no space left for the simulated event log")

    def flush(self) -> None:
        """See IO."""

    def close(self) -> None:
        """See IO."""
        self.closed = True
