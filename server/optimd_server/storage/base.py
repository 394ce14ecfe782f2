"""What a server needs of the place where its jobs are saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optimd_server.storage.snapshot import Snapshot

# With 32 bits below them epochs stay within 2^53: they are exact in the numbers of any language.
STARTS_MAX = (1 << 20) - 1


@dataclass(frozen=True)
class Stored:
    """What there is of one job.

    job: its name, or that of its folder where none can be read. snapshot: None if it was refused, for `problem`.
    is_whole: nothing that was acknowledged can be missing in it.
    """

    job: str
    snapshot: Snapshot | None
    problem: str = ""
    is_whole: bool = True


class Store(Protocol):
    """Snapshots of every job, and which of them may lack what was acknowledged after them.

    start: how many servers have started here, this one included; durable before anything else happens, so that no two
    are ever the same. Every method may block, and raises OSError if the place has failed or another server may have it.
    """

    start: int

    def stored(self) -> Iterator[Stored]:
        """The newest finished snapshot of every job, verified, one after the other; an older one is never taken."""

    def refuse(self, job: str, problem: str) -> None:
        """The server cannot go on with what is stored of this job: it stays as it is, save() refuses the job."""

    def refusal(self, job: str) -> str:
        """Why nothing can be done with this job, "" if something can."""

    def mark_running(self) -> None:
        """From now on what is served may run ahead of the snapshots."""

    def mark_ended(self, unsaved: Collection[str]) -> None:
        """Everything served is in the snapshots, but for the jobs named."""

    def save(self, snapshot: Snapshot) -> Path:
        """Make it durable. Returns its name for people. Raises OSError, what was saved before intact."""

    def make_room(self, job: str) -> None:
        """Forget every snapshot of the job but the newest."""

    def remove(self, job: str, *, for_good: bool) -> tuple[bool, str]:
        """Put everything stored of a job aside, where stored() does not look; for_good: remove it, what earlier calls
        have put aside included. Returns whether there was anything, and where it is kept, "" if nowhere.

        Raises OSError, what was saved before intact.
        """

    def close(self) -> None:
        """Let another server use the place."""
