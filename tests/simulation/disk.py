"""The simulated twin of a data directory: keeps what was saved through crashes, fails on demand."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable
from pathlib import Path

from optimd_server.storage import Snapshot


class SimulatedDisk:
    """What survives a crash. `full()`: whether the next save fails."""

    def __init__(self, full: Callable[[], bool]) -> None:
        self.full = full
        self.running = False
        self.saved: dict[str, Snapshot] = {}
        self.saves = 0
        self.starts = 0


class SimulatedStore:
    """optimd_server.storage.Store for one server process on a disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        self.unclean = disk.running
        disk.starts += 1
        self.start = disk.starts

    def newest(self) -> list[Snapshot]:
        """See Store."""
        return [copy.deepcopy(snapshot) for _, snapshot in sorted(self._disk.saved.items())]

    def mark_running(self) -> None:
        """See Store."""
        self._disk.running = True

    def mark_ended(self) -> None:
        """See Store."""
        self._disk.running = False

    def save(self, snapshot: Snapshot) -> Path:
        """See Store. What is plain must survive JSON, as it must in a manifest."""
        if self._disk.full():
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self._disk.saves += 1
        state = json.loads(json.dumps(snapshot.state))
        self._disk.saved[snapshot.job] = Snapshot(snapshot.job, snapshot.spec, state, copy.deepcopy(snapshot.shards))
        return Path(f"simulated/{snapshot.job}/{self._disk.saves}")

    def close(self) -> None:
        """See Store."""
