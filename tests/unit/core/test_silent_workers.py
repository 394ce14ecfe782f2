"""A worker whose heart beats and that does nothing is told from one that works."""

from __future__ import annotations

import pytest
from optimd_server.core.events import SignOfLife
from optimdpb.specs import Ssp, Sync

from tests.unit.core.conftest import LEASE_S, Job


def beat(job: Job, seconds: float, idle_s: float | None = None) -> None:
    """The time passes, and every worker's heart beats."""
    for _ in range(int(seconds / 5)):
        job.wait(5)
        for worker, epoch in job.epochs.items():
            job.send(SignOfLife(worker, epoch, idle_s))


def test_a_worker_that_only_lives_is_named_with_how_long(job: Job) -> None:
    job.join("w1", "w2")
    job.push("w1")
    beat(job, LEASE_S)
    waiting = "round 0 waits for w2 "
    assert job.machine.waiting_for(job.now_s) == f"{waiting}(last seen 0.0 s ago, lease 10 s)"
    beat(job, 230.0, idle_s=238.4)
    assert job.machine.waiting_for(job.now_s) == f"{waiting}(alive, no push for 240 s, idle 238 s; lease 10 s)"


def test_a_client_that_does_not_say_is_not_called_idle(job: Job) -> None:
    job.join("w1", "w2")
    beat(job, 20.0)
    assert "w2 (alive, no push for 20 s; lease 10 s)" in job.machine.waiting_for(job.now_s)


@pytest.mark.parametrize("how", ["applied", "rejected", "discarded"])
def test_every_push_that_is_taken_counts_and_none_that_is_only_offered(how: str) -> None:
    job = Job(consistency=Sync(1)).ready()
    job.join("w1")
    beat(job, 20.0)
    member = job.machine.state.members.of("w1")
    assert member is not None
    assert job.now_s - member.pushed_s == 20.0
    job.push("w1", float("nan") if how == "rejected" else 1.0, base_step=0)
    assert member.pushed_s == job.now_s
    beat(job, 20.0)
    job.send(SignOfLife("w1", member.epoch))
    with pytest.raises(Exception, match="expected seq"):
        job.push("w1", seq=99)
    assert job.now_s - member.pushed_s == 20.0
    if how == "discarded":
        job.push("w1", base_step=0)  # late
        assert member.pushed_s == job.now_s


def test_the_slowest_of_ssp_is_told_so_too() -> None:
    job = Job(consistency=Ssp(0)).ready()
    job.join("fast", "slow")
    job.push("fast")
    beat(job, 20.0, idle_s=7.0)
    assert "slow (alive, no push for 20 s, idle 7 s; lease 10 s)" in job.machine.waiting_for(job.now_s)


def test_a_round_that_many_spoiled_names_a_few() -> None:
    """Each of a thousand outcomes would name a thousand."""
    job = Job(consistency=Sync(30)).ready()
    names = [f"w{number:02}" for number in range(30)]
    job.join(*names)
    for name in names:
        job.push(name, 1.0 if name == "w29" else 1e30)
    outcome = job.outcome("w29")
    assert outcome is not None
    assert outcome.detail.endswith("w08, w09, 19 more is too large")
