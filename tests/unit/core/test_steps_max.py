"""Moving the end of a job while it trains, at its last update, and behind it."""

from __future__ import annotations

from typing import Any

import pytest
from optimd_server.core.effects import ControlRecord, Reason, Status
from optimd_server.core.events import Applied, RangeTestRequested, UpdateRequested
from optimd_server.core.log import event_of, plain_event
from optimd_server.core.saved import saved_state
from optimdpb.errors import Refused
from optimdpb.specs import SGD, Async, Linear, Ssp, Sync

from tests.unit.core.conftest import Job
from tests.unit.core.test_saved import restored

MODELS = pytest.mark.parametrize("model", [Sync(2), Async(), Ssp(0), Ssp(2)], ids=str)


def training(model: Any, **spec: Any) -> Job:
    job = Job(consistency=model, **{"steps_max": 2, **spec}).ready()
    job.join("a", "b")
    return job


def trains(job: Job, rounds: int) -> None:
    """So many pushes of each, none withheld for ever."""
    for _ in range(rounds):
        job.push("a")
        job.push("b")


def finished(model: Any, **spec: Any) -> Job:
    job = training(model, **spec)
    while not job.machine.state.finished:
        trains(job, 1)
    return job


@MODELS
def test_a_finished_job_goes_on_and_finishes_again(model: Any) -> None:
    job = finished(model, optimizer=SGD(Linear(1.0, 0.0, 10)))
    job.push("a")
    assert job.outcome("a").reason is Reason.FINISHED
    answer = job.update("longer", steps_max=4)
    assert (answer.revision, answer.at_step) == (1, 2)
    assert not job.machine.state.finished
    assert job.machine.waiting_for(job.now_s) != "" or not isinstance(model, Sync)
    while not job.machine.state.finished:
        trains(job, 1)
    assert job.machine.version.step == 4
    assert job.rates() == [1.0, 0.9, 0.8, 0.7]
    assert ControlRecord("update", "revision 1 at step 2: steps_max = 4") in job.effects
    assert [entry.change for entry in job.machine.state.history if entry.revision] == ["steps_max = 4"]


@pytest.mark.parametrize("staleness", [0, 1])
def test_under_ssp_nobody_is_ahead_because_of_what_came_behind_the_end(staleness: int) -> None:
    job = finished(Ssp(staleness))
    for _ in range(5):
        job.push("a")
        assert job.outcome("a").reason is Reason.FINISHED
    job.update("longer", steps_max=50)
    for _ in range(staleness):
        job.push("a")
        assert job.outcome("a").status is Status.APPLIED
    job.push("a")
    assert job.outcome("a") is None
    for _ in range(staleness + 1):
        job.push("b")
    assert job.outcome("a").status is Status.APPLIED


@MODELS
def test_the_end_is_moved_while_the_last_update_is_made(model: Any) -> None:
    job = training(model, steps_max=1)
    job.auto_apply = False
    job.push("a")
    job.push("b")
    assert job.machine.rounds.closing is not None
    job.update("longer", steps_max=3)
    job.send(Applied(0))
    assert not job.machine.state.finished
    job.auto_apply = True
    if job.machine.rounds.closing is not None:
        job.send(Applied(1))
    while not job.machine.state.finished:
        trains(job, 1)
    assert job.machine.version.step == 3


@MODELS
def test_the_update_on_its_way_may_become_the_last(model: Any) -> None:
    job = training(model, steps_max=100)
    job.auto_apply = False
    job.push("a")
    job.push("b")
    assert job.update("nearer", steps_max=1).at_step == 1
    assert not job.machine.state.finished
    job.send(Applied(0))
    assert job.machine.state.finished
    assert job.machine.version.step == 1
    job.update("longer", steps_max=2)
    assert job.machine.state.learning_rate() == 0.5


@MODELS
def test_the_end_may_come_nearer_but_not_behind(model: Any) -> None:
    job = training(model, steps_max=100)
    trains(job, 2)
    step = job.machine.version.step
    before = saved_state(job.machine)
    for too_low in (step, step - 1, 0, -5, 2**53 + 1):
        with pytest.raises(Refused, match=f"steps_max: expected above the job's step {step}") as refused:
            job.update("x", steps_max=too_low)
        assert (refused.value.reason, refused.value.metadata) == ("INVALID_UPDATE", {"field": "steps_max"})
    assert saved_state(job.machine) == before
    job.update("nearer", steps_max=step + 1)
    while not job.machine.state.finished:
        trains(job, 1)
    assert job.machine.version.step == step + 1


def test_a_job_without_an_end_gets_one() -> None:
    job = training(Sync(2), steps_max=None)
    job.update("end", steps_max=1)
    trains(job, 1)
    assert job.machine.state.finished


def test_a_longer_job_may_get_another_rate_in_the_same_breath() -> None:
    job = finished(Sync(2))
    with pytest.raises(Refused, match="expected a job that trains, or steps_max above its step, the job is FINISHED"):
        job.update("a", lr=0.25)
    with pytest.raises(Refused, match="at_step: expected at most 3"):
        job.update("a", steps_max=4, lr=0.25, at_step=4)
    assert job.machine.state.finished
    job.update("a", steps_max=4, lr=0.25, at_step=3)
    trains(job, 2)
    assert job.rates() == [0.5, 0.5, 0.5, 0.25]


def test_the_same_request_again_gets_the_first_answer() -> None:
    job = finished(Sync(2))
    first = job.update("a", steps_max=4)
    trains(job, 2)
    assert job.update("a", steps_max=4) == first
    with pytest.raises(Refused, match="which asked for steps_max = 4"):
        job.update("a", steps_max=5)
    assert job.machine.state.finished


def test_not_while_a_range_test_runs_and_one_may_run_in_a_longer_job() -> None:
    request = RangeTestRequested("r", "operator", 1e9, 1e-3, 0.1, 10, "linear", "lineage-2")
    job = finished(Sync(2))
    with pytest.raises(Refused, match="the job is FINISHED"):
        job.send(request)
    job.update("a", steps_max=4)
    job.send(request)
    job.push("a", loss=1.0)
    job.push("b", loss=1.0)
    with pytest.raises(Refused, match="RANGE_TEST"):
        job.update("b", steps_max=10)


def test_a_pause_outlasts_the_end() -> None:
    job = training(Sync(2), steps_max=2)
    trains(job, 1)
    job.update("p", paused=True)
    job.push("a")
    job.push("b")
    job.update("longer", steps_max=3)
    assert job.machine.version.step == 1
    job.update("r", paused=False)
    assert job.machine.version.step == 2
    assert not job.machine.state.finished


@MODELS
def test_a_restart_keeps_the_end(model: Any) -> None:
    job = finished(model)
    job.update("longer", steps_max=4)
    again = restored(job)
    assert not again.machine.state.finished
    while not again.machine.state.finished:
        trains(again, 1)
    assert again.machine.version.step == 4
    assert restored(again).machine.state.finished


def test_a_snapshot_of_before_has_the_end_of_its_specification() -> None:
    job = training(Sync(2))
    saved = saved_state(job.machine)
    del saved["clock"]["steps_max"]
    other = training(Sync(2))
    other.machine.state.clock.restore(saved["clock"])
    assert other.machine.state.clock.steps_max == 2


def test_an_event_log_keeps_it_and_one_of_before_is_read() -> None:
    event = UpdateRequested("a", "", 0.0, None, None, (), None, 7)
    plain = plain_event(event)
    assert event_of(plain) == event
    del plain["steps_max"]
    assert event_of(plain) == UpdateRequested("a", "", 0.0, None, None, (), None)
