"""More defects put in on purpose: in what follows leaving, deletion, jobs made anew, and jobs made longer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from optimd_server.core.clock import Clock
from optimd_server.core.control import Control
from optimd_server.core.ssp import SspRounds
from optimd_server.core.sync import SyncRounds
from optimd_server.runtime.budget import JobStaging
from optimd_server.runtime.host import JobHost
from optimd_server.runtime.saver import Saver
from optimd_server.runtime.server import Runtime
from optimd_server.service import jobs
from optimdpb.errors import Refused
from optimdpb.specs import Sync

from tests.simulation.bugs import both, bug
from tests.simulation.mischief_bugs import BUGS

__all__ = ["BUGS"]


def _leaving_as(how: dict[str, str]) -> Any:
    """The rounds take one end of an epoch for another."""
    real = SyncRounds.epoch_over
    return patch.object(
        SyncRounds, "epoch_over", lambda self, member, change: real(self, member, how.get(change, change))
    )


@bug
def leaving_lowers_nothing() -> Any:
    """The others wait for a worker that is out of data."""
    return _leaving_as({"left": "failed"})


@bug
def a_failed_leave_lowers_the_count() -> Any:
    """The others go on without a worker that has work left."""
    return _leaving_as({"failed": "left"})


@bug
def leaving_lowers_below_the_floor() -> Any:
    """Of what the job really needs, too."""
    return patch.object(Sync, "workers_left", lambda self, left: self.workers - left)


@bug
def the_floor_is_forgotten_on_restart() -> Any:
    """workers_min of the specification holds no more."""
    real = SyncRounds.restore

    def restore(self: SyncRounds, saved: Any) -> None:
        real(self, saved)
        self.consistency = dataclasses.replace(self.consistency, workers_min=None)

    return patch.object(SyncRounds, "restore", restore)


@bug
def who_has_left_is_forgotten_on_restart() -> Any:
    """They are waited for again."""
    return patch.object(SyncRounds, "restore", lambda self, saved: None)


@bug
def epochs_start_again_after_a_deletion() -> Any:
    """The next job of the name gives out those of the one before."""
    real = Runtime._forget

    def forget(self: Runtime, name: str, why: Any) -> None:
        epochs_from = self._epochs_from
        real(self, name, why)
        self._epochs_from = epochs_from

    return patch.object(Runtime, "_forget", forget)


@bug
def a_job_made_anew_has_the_lineage_of_the_one_before() -> Any:
    """A push of the old one fits it."""
    return patch.object(jobs, "secrets", SimpleNamespace(token_hex=lambda size: "5e" * size))


@bug
def a_job_made_anew_keeps_the_slots() -> Any:
    """Its optimizer goes on with the moments of the one before."""
    kept: list[Any] = []
    real_remove, real_init = JobHost.remove, JobHost.__init__

    def remove(self: JobHost, why: Any) -> None:
        kept[:] = [shard.slots.copy() for shard in self.shards.shards]
        real_remove(self, why)

    def init(self: JobHost, *arguments: Any) -> None:
        real_init(self, *arguments)
        if self.name == "job" and [slots.shape for slots in kept] == [s.slots.shape for s in self.shards.shards]:
            for shard, slots in zip(self.shards.shards, kept, strict=True):
                np.copyto(shard.slots, slots)

    return both(patch.object(JobHost, "remove", remove), patch.object(JobHost, "__init__", init))


@bug
def a_deleted_job_keeps_its_room() -> Any:
    """For gradients, for as long as the server runs."""
    return patch.object(JobStaging, "leave", lambda self: None)


@bug
def a_job_is_deleted_while_it_is_saved() -> Any:
    """Its snapshot comes behind, and at the next start the job is back."""

    async def delete(self: Saver, job: str, *, for_good: bool, check: Callable[[], None], done: Any) -> Any:
        check()
        try:
            removed = await self._call(partial(self._store.remove, job, for_good=for_good))
        except OSError as error:
            raise Refused("STORAGE_FAILED", str(error), problem=error) from error
        done()
        return removed

    return patch.object(Saver, "delete", delete)


@bug
def a_deleted_job_stays_on_disk() -> Any:
    """It is forgotten in memory alone."""

    async def delete(self: Saver, job: str, *, for_good: bool, check: Callable[[], None], done: Any) -> Any:
        check()
        done()
        return True, ""

    return patch.object(Saver, "delete", delete)


def _once_it_goes_on(then: Callable[[Control], None]) -> Any:
    """As a finished job is made longer."""
    real = Control.update

    def update(self: Control, event: Any) -> Any:
        was_finished = self._state.finished
        effects = real(self, event)
        if was_finished and not self._state.finished:
            then(self)
        return effects

    return patch.object(Control, "update", update)


@bug
def a_job_made_longer_counts_its_updates_anew() -> Any:
    """Bias corrections begin again."""

    def count_anew(control: Control) -> None:
        control._state.rule_count = 0

    return _once_it_goes_on(count_anew)


@bug
def a_job_made_longer_forgets_its_clock() -> Any:
    """Its schedules are those of the specification again."""
    return _once_it_goes_on(lambda control: control._state.clock._hold(control._state.spec.optimizer))


@bug
def a_job_made_longer_keeps_the_clocks_of_its_workers() -> Any:
    """Pushes behind the end have moved them."""
    return patch.object(SspRounds, "go_on", lambda self: None)


@bug
def the_new_end_is_forgotten_on_restart() -> Any:
    """The job ends where its specification says."""
    real = Clock.restore

    def restore(self: Clock, saved: Any) -> None:
        real(self, {name: value for name, value in saved.items() if name != "steps_max"})

    return patch.object(Clock, "restore", restore)
