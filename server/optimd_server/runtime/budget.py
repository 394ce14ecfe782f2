"""How much memory staged gradients may take: refused in time and with a word to try again, never queued.

A gradient takes as much as the parameters, and a worker never has more than one staged. A Sync job needs one from each
of its workers before anything is freed, so each has its room from the moment it joins: a round that has begun is never
short of memory. In the other models a gradient is freed as soon as it is applied, so room is taken by each push as it
comes; room for one is the job's own, so that it always moves.

What workers committed to the open Sync round before they left or expired comes on top, at most one gradient for each
member of that round: if it counted against those who join, a round that waits for them could not close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from numpy.typing import DTypeLike
from optimdpb.errors import Refused
from optimdpb.specs import JobSpec, Sync

from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.sharing import JobSharing


class StagingBudget:
    """At most `bytes_max` for the staged gradients of all jobs together. Nothing is booked: it counts what is there."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        # Held while shared memory is made: what is on its way is not counted yet.
        self.opening = asyncio.Lock()
        self.jobs: list[JobStaging] = []

    @property
    def used_bytes(self) -> int:
        """Taken, or set aside where that is more."""
        return sum(max(job.own_bytes, job.taken_bytes) + job.shared_bytes for job in self.jobs)

    @property
    def promised_bytes(self) -> int:
        """As used_bytes, without what Sync jobs hold for workers that are gone."""
        return sum(
            (job.own_bytes if job.per_worker else max(job.own_bytes, job.taken_bytes)) + job.shared_bytes
            for job in self.jobs
        )

    def check(self, more_bytes: int, used: Callable[[], int]) -> None:
        """Raises Refused(BACKLOG_FULL) if so much more does not fit, also without the buffers kept for reuse."""
        if used() + more_bytes > self.bytes_max:
            for job in self.jobs:
                job.trim()
        if used() + more_bytes > self.bytes_max:
            raise Refused(
                "BACKLOG_FULL",
                f"expected room for {more_bytes} bytes of gradients, got {self.bytes_max - used()} of "
                f"staging_bytes_max = {self.bytes_max}: try again",
                needed_bytes=more_bytes,
                staging_bytes_max=self.bytes_max,
            )


class JobStaging:
    """One job's part in the budget. `live()`: how many workers are live now."""

    def __init__(
        self,
        budget: StagingBudget,
        spec: JobSpec,
        shards: ShardGroup,
        sharing: JobSharing,
        live: Callable[[], int],
    ) -> None:
        """Raises Refused(LIMIT_EXCEEDED) if the job can never have the room it needs, BACKLOG_FULL if not now."""
        self._budget = budget
        self._shards = shards
        self._sharing = sharing
        self._workers = spec.consistency.workers if isinstance(spec.consistency, Sync) else 0
        self._live = live
        self.per_worker = isinstance(spec.consistency, Sync)
        needed = self._bytes(max(self._workers, 1))
        if needed > budget.bytes_max:
            message = f"expected staging_bytes_max of at least {needed} for one gradient of each worker that round 0 "
            message += f"needs, got {budget.bytes_max}"
            limit = budget.bytes_max
            raise Refused("LIMIT_EXCEEDED", message, limit="staging_bytes_max", limit_value=limit, value=needed)
        if not self.per_worker:
            budget.check(self._bytes(1), lambda: budget.promised_bytes)
        budget.jobs.append(self)

    def leave(self) -> None:
        """The job is no more."""
        self._budget.jobs.remove(self)

    @property
    def own_bytes(self) -> int:
        """Set aside for this job, used or not; who has shared memory needs none of it."""
        return self._bytes(self._live() - self._sharing.workers if self.per_worker else 1)

    @property
    def shared_bytes(self) -> int:
        """Shared with workers."""
        return self._bytes(self._sharing.vectors)

    @property
    def left_bytes(self) -> int:
        """Gradients in shared memory of epochs that have none any more: they wait to be applied."""
        return self._bytes(sum(not self._sharing.has(*key) for key in self._shards.adopted()))

    @property
    def taken_bytes(self) -> int:
        """Buffers that there are, free ones and those that workers left behind included."""
        return self._bytes(self._shards.buffers) + self.left_bytes

    def check_join(self) -> None:
        """Raises Refused(BACKLOG_FULL) if there is no room for one more worker's gradients."""
        if self.per_worker:
            self._budget.check(self._bytes(1), lambda: self._budget.promised_bytes)

    def check_shared(self, again: bool) -> None:
        """Raises Refused(SHARED_MEMORY_UNAVAILABLE) if it would take room that this job's workers to come need.

        again: it takes the place of what this worker has.
        """
        more = 0 if again else self._sharing.vectors_per_worker - (1 if self.per_worker else 0)
        to_come = max(0, self._workers - self._live())
        needed = self._budget.used_bytes + self._bytes(more + to_come)
        if needed > self._budget.bytes_max:
            message = f"expected room for {self._bytes(more)} bytes more of shared memory, got staging_bytes_max = "
            raise Refused("SHARED_MEMORY_UNAVAILABLE", f"{message}{self._budget.bytes_max}, which is taken")

    def check_stage(self, worker: str, epoch: int, dtype: DTypeLike) -> None:
        """Raises Refused(BACKLOG_FULL) if there is no room for this push."""
        if self.per_worker or self._shards.has_buffer(worker, epoch, dtype) or self._shards.buffers == 0:
            return
        self._budget.check(self._bytes(1), lambda: self._budget.used_bytes)

    @property
    def opening(self) -> asyncio.Lock:
        """Held while shared memory is made."""
        return self._budget.opening

    def trim(self) -> None:
        """Give buffers that wait for reuse back to the system."""
        self._shards.trim()

    def _bytes(self, gradients: int) -> int:
        return gradients * self._shards.size_bytes
