"""Consistency models as values: when a round closes and who waits."""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_choice, check_integer, check_number, check_positive

WORKERS_MAX = 100_000
STALENESS_MAX = 1_000_000
DELAY_COMPENSATION_MAX = 1e6


@dataclass(frozen=True)
class Consistency:
    """Base of every consistency model."""


@dataclass(frozen=True)
class Sync(Consistency):
    """Rounds over all members.

    Round 0 opens when `workers` have joined, a later one with `workers_min` live. A round closes when each member has
    pushed, left or expired; with `quorum` on the first so many pushes; with `round_timeout_s` once it has been open so
    long and enough pushes are there: `quorum`, without it `workers_min`, without both one. It never closes with fewer
    than `workers_min` live.

    A worker that leaves, as it does at the end of its data, lowers `workers` by one until it joins again; one that dies
    lowers nothing. workers_min: None for as many as `quorum`, without it `workers`, and no more than are left; given,
    the job's real need: leaving lowers nothing below it.
    """

    workers: int
    workers_min: int | None = None
    quorum: int | None = None
    round_timeout_s: float | None = None

    def __post_init__(self) -> None:
        check_integer(self, "workers", 1, WORKERS_MAX)
        if self.quorum is not None:
            check_integer(self, "quorum", 1, WORKERS_MAX)
            if self.quorum > self.workers:
                raise InvalidSpec("quorum", f"expected at most workers = {self.workers}, got {self.quorum}")
        if self.workers_min is not None:
            check_integer(self, "workers_min", 1, WORKERS_MAX)
            if self.workers_min > self.workers:
                raise InvalidSpec("workers_min", f"expected at most workers = {self.workers}, got {self.workers_min}")
        if self.round_timeout_s is not None:
            check_positive(self, "round_timeout_s")
            if self.quorum is None and self.workers_min == self.workers:
                problem = f"expected with it a workers_min below workers = {self.workers}, or none, got"
                problem += f" {self.workers_min}: it could change nothing"
                raise InvalidSpec("round_timeout_s", problem)

    def workers_left(self, left: int) -> int:
        """How many workers the job has once so many have left."""
        return max(self.workers_min or 0, self.workers - left)

    def members_min(self, left: int) -> int:
        """Fewest live workers with which a round closes once so many have left."""
        return min(self.workers_min or self.quorum or self.workers, self.workers_left(left))

    def pushes_enough(self, left: int) -> int:
        """So many pushes close a round that need not wait for all, once so many workers have left."""
        return min(self.quorum or self.workers_min or 1, self.workers_left(left))


@dataclass(frozen=True)
class Async(Consistency):
    """Every push is its own round.

    A push staler than `staleness_max` is discarded. staleness_scale: "none", or "inverse" to multiply a gradient by
    1 / (1 + staleness). delay_compensation: lambda of g + lambda g^2 (w(t) - w(base)), which corrects a stale gradient
    towards the parameters it is applied to (Zheng et al. 2017, DC-ASGD, arXiv:1609.08326); the server keeps the
    parameters of the last `staleness_max` versions for it, so that it needs staleness_max. The factor on g stays within
    0 and 2: beyond that the expansion that it comes from says nothing.
    """

    staleness_max: int | None = None
    staleness_scale: str = "none"
    delay_compensation: float | None = None

    def __post_init__(self) -> None:
        if self.staleness_max is not None:
            check_integer(self, "staleness_max", 0, STALENESS_MAX)
        check_choice(self, "staleness_scale", ("none", "inverse"))
        if self.delay_compensation is not None:
            check_positive(self, "delay_compensation")
            check_number(self, "delay_compensation", 0.0, DELAY_COMPENSATION_MAX)
            if not self.staleness_max:
                problem = "expected with it a staleness_max of at least 1: it is the number of versions kept"
                raise InvalidSpec("delay_compensation", problem)

    @property
    def versions_kept(self) -> int:
        """Past versions of the parameters that the server must hold, each as large as the parameters."""
        return 0 if self.delay_compensation is None else self.staleness_max or 0


@dataclass(frozen=True)
class Ssp(Consistency):
    """As Async, and a worker waits for its answer while it is more than `staleness` pushes ahead of the slowest one.

    (Ho et al. 2013, Stale Synchronous Parallel.)
    """

    staleness: int

    def __post_init__(self) -> None:
        check_integer(self, "staleness", 0, STALENESS_MAX)
