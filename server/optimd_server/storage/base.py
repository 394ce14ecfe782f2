"""What a server needs of the place where its jobs are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from optimd_server.storage.snapshot import Snapshot


class Store(Protocol):
    """Snapshots of every job, and whether the last server that used them ended in order.

    unclean: it did not, so that more may have been acknowledged than is saved. start: how many servers have started
    here, this one included; durable before anything else happens, so that no two are ever the same.
    """

    unclean: bool
    start: int

    def newest(self) -> list[Snapshot]:
        """The newest finished snapshot of every job, verified. Raises SnapshotRefused; an older one is never taken."""

    def mark_running(self) -> None:
        """From now on what is served may run ahead of the snapshots."""

    def mark_ended(self) -> None:
        """Everything served is in the snapshots."""

    def save(self, snapshot: Snapshot) -> Path:
        """Make it durable. Returns its name for people. Raises OSError, what was saved before intact."""

    def close(self) -> None:
        """Let another server use the place."""
