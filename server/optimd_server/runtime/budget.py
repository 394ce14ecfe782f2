"""How much memory staged gradients may take: refused in time and with a word to try again, never queued.

A gradient takes as much as the parameters. A Sync job needs one from each of its workers before anything is freed, so
each of them has its room from the moment it joins: a round that has begun is never short of memory. In the other models
a gradient is freed as soon as it is applied, so room is taken by each push as it comes; room for one is the job's own,
so that it always moves. A worker never has more than one gradient staged.
"""

from __future__ import annotations

from optimdpb.errors import Refused
from optimdpb.specs import JobSpec, Sync

from optimd_server.runtime.shards import ShardGroup


class StagingBudget:
    """At most `bytes_max` for the staged gradients of all jobs together. Nothing is booked: it counts what is there."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.jobs: list[JobStaging] = []

    @property
    def used_bytes(self) -> int:
        """Taken or set aside."""
        return sum(job.used_bytes for job in self.jobs)

    def check(self, more_bytes: int) -> None:
        """Raises Refused(BACKLOG_FULL) if so much more does not fit, also without the buffers kept for reuse."""
        if not self._fits(more_bytes):
            for job in self.jobs:
                job.trim()
        if not self._fits(more_bytes):
            raise Refused(
                "BACKLOG_FULL",
                f"expected room for {more_bytes} bytes of gradients, got {self.bytes_max - self.used_bytes} of "
                f"staging_bytes_max = {self.bytes_max}: try again",
                needed_bytes=more_bytes,
                staging_bytes_max=self.bytes_max,
            )

    def _fits(self, more_bytes: int) -> bool:
        return self.used_bytes + more_bytes <= self.bytes_max


class JobStaging:
    """One job's part in the budget. `epochs`: of a Sync job, those with room of their own."""

    def __init__(self, budget: StagingBudget, spec: JobSpec, shards: ShardGroup) -> None:
        """Raises Refused(LIMIT_EXCEEDED) if the job can never have the room it needs, BACKLOG_FULL if not now."""
        self._budget = budget
        self._shards = shards
        self._per_worker = isinstance(spec.consistency, Sync)
        self.epochs: set[tuple[str, int]] = set()
        needed = self._bytes(spec.consistency.workers if isinstance(spec.consistency, Sync) else 1)
        if needed > budget.bytes_max:
            message = f"expected staging_bytes_max of at least {needed} for one gradient of each worker that round 0 "
            message += f"needs, got {budget.bytes_max}"
            limit = budget.bytes_max
            raise Refused("LIMIT_EXCEEDED", message, limit="staging_bytes_max", limit_value=limit, value=needed)
        if not self._per_worker:
            budget.check(self._bytes(1))
        budget.jobs.append(self)

    @property
    def used_bytes(self) -> int:
        """Buffers there are, or those set aside if they are more."""
        own = len(self.epochs) if self._per_worker else 1
        return self._bytes(max(own, self._shards.buffers))

    def check_join(self, replaces_one: bool) -> None:
        """Raises Refused(BACKLOG_FULL) if there is no room for one more worker's gradients."""
        if self._per_worker and not replaces_one:
            self._budget.check(self._bytes(max(len(self.epochs) + 1, self._shards.buffers)) - self.used_bytes)

    def check_stage(self, worker: str, epoch: int) -> None:
        """Raises Refused(BACKLOG_FULL) if there is no room for this push."""
        if not self._shards.has_buffer(worker, epoch) and (worker, epoch) not in self.epochs:
            self._budget.check(self._bytes(max(1, self._shards.buffers + 1)) - self.used_bytes)

    def joined(self, worker: str, epoch: int) -> None:
        """The epoch may stage from now on."""
        if self._per_worker:
            self.epochs.add((worker, epoch))

    def dropped(self, worker: str, epoch: int, *, live: bool) -> None:
        """What the epoch had staged is gone; if it is not live there will be no more of it."""
        if not live:
            self.epochs.discard((worker, epoch))

    def trim(self) -> None:
        """Give buffers that wait for reuse back to the system."""
        self._shards.trim()

    def _bytes(self, gradients: int) -> int:
        return gradients * self._shards.size_bytes
