"""A saved job goes on as if nothing had happened, or without members if something may have been lost."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from optimd_server.core import JobMachine
from optimd_server.core.effects import Outcome, Reason, Status
from optimd_server.core.events import Ticked, UpdateRequested, Version
from optimd_server.core.log import event_of, plain_event
from optimd_server.core.saved import restore, saved_state
from optimd_server.core.state import HistoryEntry
from optimdpb.errors import Refused
from optimdpb.specs import SGD, SWATS, Group, NAdam, OneCycle, Sequence, Sync
from optimdpb.specs.text import CHARACTERS_MAX, schedule_to_text

from tests.unit.core.conftest import LEASE_S, TICK_S, Job


def restored(job: Job, fresh_lineage: str | None = None, epochs_from: int = 1) -> Job:
    """The job after a restart, 1,000 seconds later on another clock; through JSON, as a snapshot stores it."""
    saved = json.loads(json.dumps(saved_state(job.machine)))
    again = Job()
    spec = job.machine.state.spec
    again.machine = JobMachine(spec, lease_s=LEASE_S, tick_interval_s=TICK_S, epochs_from=epochs_from)
    again.now_s = 7.0
    restore(again.machine, saved, again.now_s, fresh_lineage)
    again.epochs, again.seqs = dict(job.epochs), dict(job.seqs)
    again.machine.check_invariants()
    return again


def trained(**spec: object) -> Job:
    """Two workers, three rounds, one late push, one worker gone."""
    job = Job(**spec).ready()
    job.join("a", "b")
    for _ in range(3):
        job.push("a", loss=0.1)
        job.push("b", weight=3.0, loss=1 / 3)
    job.push("b", base_step=1)
    job.join("c")
    job.leave("c")
    return job


def test_nothing_changes_on_the_way() -> None:
    job = trained(optimizer=NAdam(0.1), groups=(Group("w", beta1=0.3),))
    assert saved_state(restored(job).machine) == {
        **saved_state(job.machine),
        "history": [*saved_state(job.machine)["history"], asdict(HistoryEntry("restored", "lineage-1", 3))],
    }


def test_training_goes_on_without_joining_again() -> None:
    job = restored(trained())
    job.send(Ticked())
    assert "waits for a" in job.machine.waiting_for(job.now_s)
    job.push("a")
    job.push("b")
    assert job.outcome("a").applied_step == 3
    assert job.machine.version == Version("lineage-1", 4)
    assert job.machine.state.counters.applied == 8


def test_a_resent_push_gets_the_outcome_of_before() -> None:
    job = restored(trained())
    again = job.push_of("b", seq=job.seqs["b", job.epochs["b"]], base_step=1)
    outcome = job.machine.outcome_of("b", again.epoch, again.seq)
    assert (outcome.status, outcome.reason) == (Status.DISCARDED, Reason.LATE)


def test_a_push_that_waited_is_sent_again_under_its_seq() -> None:
    job = trained()
    job.push("a")
    seq = job.seqs["a", job.epochs["a"]]
    again = restored(job)
    assert again.machine.outcome_of("a", job.epochs["a"], seq) is None, "never taken"
    again.send(Ticked())
    again.seqs["a", job.epochs["a"]] = seq - 1
    again.push("a")
    again.push("b")
    assert again.outcome("a", seq).status is Status.APPLIED


def test_leases_start_anew() -> None:
    job = restored(trained())
    for _ in range(int(LEASE_S)):
        job.wait(1)
    assert len(job.machine.state.members) == 2
    job.wait(2)
    assert len(job.machine.state.members) == 0


def test_epochs_never_fall() -> None:
    job = trained()
    again = restored(job)
    again.join("d")
    assert again.epochs["d"] == job.epochs["c"] + 1


def test_after_a_loss_everybody_joins_again_under_epochs_never_given_out() -> None:
    before = trained()
    job = restored(before, fresh_lineage="lineage-2", epochs_from=1000)
    assert job.machine.version == Version("lineage-2", 3)
    with pytest.raises(Refused) as refused:
        job.push("a")
    assert refused.value.reason == "NOT_JOINED"
    job.join("a", "b")
    assert job.epochs["a"] == 1000
    job.push("a", base=Version("lineage-1", 3))
    assert job.outcome("a").reason is Reason.LINEAGE_CHANGED
    job.push("a")
    job.push("b")
    assert job.outcome("a", 2).applied_step == 3
    assert [entry.change for entry in job.machine.state.history] == ["ready", "restored with loss"]


def test_after_a_loss_outcomes_of_the_snapshot_are_still_told() -> None:
    """Its history holds their updates: who lost the reply must not hear that its gradient does not count."""
    before = trained()
    before.push("a")  # without an outcome: it is not in the snapshot
    epoch, seq = before.epochs["a"], before.seqs["a", before.epochs["a"]]
    job = restored(before, fresh_lineage="lineage-2", epochs_from=1000)
    outcome = job.machine.outcome_of("a", epoch, seq - 1)
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.applied_step) == (Status.APPLIED, 2)
    assert job.machine.outcome_of("a", epoch, seq) is None
    assert not job.machine.state.members.is_live("a", epoch)


def test_a_finished_job_stays_finished() -> None:
    job = restored(trained(steps_max=3))
    assert job.machine.state.finished
    job.push("a")
    assert job.outcome("a").reason is Reason.FINISHED


def test_rounds_open_with_workers_min_after_a_restart_too() -> None:
    job = trained(consistency=Sync(2, workers_min=1))
    job.leave("b")
    again = restored(job)
    again.send(Ticked())
    again.push("a")
    assert again.outcome("a").status is Status.APPLIED


@pytest.mark.parametrize("damage", [{"memories": []}, {"memories": [[1.0]]}, {"counters": {"applied": 1, "x": 2}}])
def test_a_foreign_state_is_an_error(damage: dict) -> None:
    job = trained(optimizer=SWATS(0.1))
    with pytest.raises((KeyError, TypeError, ValueError)):
        restore(job.machine, {**saved_state(job.machine), **damage}, 0.0, None)
    for field in saved_state(job.machine):
        saved = saved_state(job.machine)
        del saved[field]
        with pytest.raises(KeyError, match=field):
            restore(job.machine, saved, 0.0, None)


def test_a_schedule_that_was_taken_comes_back_however_long_its_text_is() -> None:
    parts = [
        (index + 100, OneCycle(1 / 3 + index * 1e-9, 5000, 1 / 3, 25.1, 1e4 / 3, 0.8512345, 0.9512345))
        for index in range(6000)
    ]
    schedule = Sequence(parts)
    assert len(schedule_to_text(schedule)) > CHARACTERS_MAX
    job = trained(optimizer=SGD(schedule))
    job.update("later", lr=schedule, at_step=10)
    again = restored(job)
    assert again.machine.state.clock.schedules() == job.machine.state.clock.schedules()
    assert again.machine.state.clock.pending == job.machine.state.clock.pending
    event = UpdateRequested("a", "", 0.0, None, None, (("lr", schedule),), None)
    assert event_of(plain_event(event)) == event, "nor is it lost to a replay"
