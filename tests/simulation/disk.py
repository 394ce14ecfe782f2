"""The simulated twin of a data directory: keeps what was saved through crashes, fails on demand."""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from optimd_server.core.plain import json_line, of_json_line
from optimd_server.storage import Snapshot, Stored


class SimulatedDisk:
    """What survives a crash. `full()`: whether the next save fails. `lacking`: jobs that were not saved at the end."""

    def __init__(self, full: Callable[[], bool]) -> None:
        self.full = full
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
        if self._disk.full():
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self._disk.saves += 1
        state = of_json_line(json_line(snapshot.state))
        self._disk.saved[snapshot.job] = Snapshot(snapshot.job, snapshot.spec, state, copy.deepcopy(snapshot.shards))
        self._disk.lacking.discard(snapshot.job)
        return Path(f"simulated/{snapshot.job}/{self._disk.saves}")

    def make_room(self, job: str) -> None:
        """See Store."""

    def close(self) -> None:
        """See Store."""
