"""A paused job: nothing is updated, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from optimd_server.core.effects import Status
from optimd_server.core.events import Applied, JoinRequested
from optimdpb.errors import Refused
from optimdpb.specs import SGD, Async, Ssp, Sync

from tests.unit.core.conftest import LEASE_S, Job
from tests.unit.core.test_clock import train, training
from tests.unit.core.test_saved import restored

MODELS = [Sync(1), Async(), Ssp(2)]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_pushes_wait_until_the_job_goes_on(model: Any) -> None:
    job = training(SGD(0.5), 1, consistency=model)
    job.update("stop", paused=True)
    job.push("w0")
    assert job.outcome("w0") is None
    assert job.machine.waiting_for(job.now_s) == "the job is paused at step 1: optimd resume lets it go on"
    job.update("go", paused=False)
    outcome = job.outcome("w0")
    assert outcome is not None
    assert (outcome.status, outcome.applied_step) == (Status.APPLIED, 1)
    assert "paused" not in job.machine.waiting_for(job.now_s)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_pause_begins_before_the_update_of_its_step(model: Any) -> None:
    job = training(SGD(0.5), consistency=model)
    job.update("stop", at_step=2, paused=True)
    train(job, 3)
    assert len(job.rounds()) == 2
    job.update("go", paused=False, at_step=2)
    assert len(job.rounds()) == 3


def test_the_update_on_its_way_is_made() -> None:
    job = training(SGD(0.5))
    job.auto_apply = False
    job.push("w0")
    assert job.update("stop", paused=True).at_step == 1
    job.send(Applied(0))
    assert job.outcome("w0") is not None
    job.push("w0")
    assert len(job.commands()) == 1


def test_a_schedule_may_change_while_the_job_is_paused() -> None:
    job = training(SGD(0.5), 1)
    job.update("stop", paused=True)
    job.push("w0")
    job.update("lr", lr=0.25)
    job.update("go", paused=False)
    assert job.rates() == [0.5, 0.25]


def test_a_pause_to_come_is_taken_back() -> None:
    job = training(SGD(0.5))
    job.update("stop", at_step=2, paused=True)
    job.update("no", at_step=2, paused=False)
    train(job, 4)
    assert len(job.rounds()) == 4


def test_a_paused_job_reaches_no_later_step() -> None:
    job = training(SGD(0.5), 1)
    job.update("stop", paused=True)
    with pytest.raises(Refused, match="paused at step 1 and would never reach 3"):
        job.update("go", at_step=3, paused=False)


def test_members_come_and_go_meanwhile() -> None:
    job = training(SGD(0.5), 1, consistency=Sync(1))
    job.update("stop", paused=True)
    job.push("w0")
    job.send(JoinRequested("w1"))
    job.wait(LEASE_S + 2)  # both expire
    assert len(job.machine.state.members) == 0
    job.join("w2")
    job.update("go", paused=False)
    outcome = job.outcome("w0")
    assert outcome is not None
    assert outcome.status is Status.APPLIED  # it was committed before its worker expired


def test_a_pause_takes_no_time_from_a_round() -> None:
    job = Job(optimizer=SGD(0.5), consistency=Sync(2, workers_min=1, round_timeout_s=5.0)).ready()
    job.join("w0", "w1")
    job.push("w0")
    job.wait(3)
    job.update("stop", paused=True)
    job.wait(5)
    job.update("go", paused=False)
    assert job.outcome("w0") is None
    job.wait(1)
    assert job.outcome("w0") is None
    job.wait(1)
    assert job.outcome("w0") is not None


def test_a_pause_outlives_a_restart() -> None:
    job = training(SGD(0.5), 1)
    job.update("stop", paused=True)
    again = restored(job)
    again.push("w0")
    assert again.outcome("w0") is None
    again.update("go", paused=False)
    assert again.outcome("w0") is not None
