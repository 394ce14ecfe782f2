"""Consistency models as values: when a round closes and who waits."""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_integer, check_positive

WORKERS_MAX = 100_000


@dataclass(frozen=True)
class Consistency:
    """Base of every consistency model."""


@dataclass(frozen=True)
class Sync(Consistency):
    """Rounds over all members.

    Round 0 opens when `workers` have joined. A round closes when each member has pushed, left or expired, with at least
    `workers_min` (default: workers) live; or on the first `quorum` pushes; or after `round_timeout_s` seconds.
    """

    workers: int
    workers_min: int | None = None
    quorum: int | None = None
    round_timeout_s: float | None = None

    def __post_init__(self) -> None:
        check_integer(self, "workers", 1, WORKERS_MAX)
        if self.workers_min is None:
            object.__setattr__(self, "workers_min", self.workers)
        check_integer(self, "workers_min", 1, WORKERS_MAX)
        if self.members_min > self.workers:
            raise InvalidSpec("workers_min", f"expected at most workers = {self.workers}, got {self.workers_min}")
        if self.quorum is not None:
            check_integer(self, "quorum", 1, WORKERS_MAX)
        if self.round_timeout_s is not None:
            check_positive(self, "round_timeout_s")

    @property
    def members_min(self) -> int:
        """workers_min as an int."""
        assert self.workers_min is not None
        return self.workers_min
