"""Ssp: who runs ahead gets its answer later, never another one."""

from __future__ import annotations

import pytest
from optimd_server.core.effects import Pending, Reason, Status
from optimd_server.core.events import Applied, PushOffered, Version
from optimdpb.errors import Refused
from optimdpb.specs import Ssp

from tests.unit.core.conftest import Job
from tests.unit.core.test_saved import restored


def ready(staleness: int, *workers: str, **spec: object) -> Job:
    """An Ssp job with these workers."""
    job = Job(consistency=Ssp(staleness), **spec).ready()
    job.join(*workers)
    return job


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_an_answer_is_withheld_beyond_the_bound(staleness: int) -> None:
    job = ready(staleness, "a", "b")
    for _ in range(staleness):
        job.push("a")
        assert job.outcome("a").status is Status.APPLIED
    job.push("a")
    assert job.outcome("a") is None
    assert job.machine.version.step == staleness + 1, "applied, not told"
    job.push("b")
    assert job.outcome("a").status is Status.APPLIED
    assert job.outcome("a").applied_step == staleness


def test_a_withheld_push_is_in_flight() -> None:
    job = ready(0, "a", "b")
    job.push("a")
    again = job.push_of("a", seq=1)
    assert Pending() in job.send(PushOffered(again))
    assert job.machine.outcome_of("a", job.epochs["a"], 1) == Pending()
    with pytest.raises(Refused) as caught:
        job.send(PushOffered(job.push_of("a", seq=2)))
    assert caught.value.reason == "PUSH_IN_FLIGHT"
    job.push("b")
    assert job.machine.outcome_of("a", job.epochs["a"], 1) == job.outcome("a")


@pytest.mark.parametrize("how", ["left", "expired", "superseded"])
def test_nobody_waits_for_a_worker_that_is_gone(how: str) -> None:
    job = ready(0, "a", "b", "c")
    job.push("a")
    job.push("c")
    assert job.outcome("a") is None
    if how == "left":
        job.leave("b")
    elif how == "expired":
        members = job.machine.state.members
        for _ in range(12):
            for worker in ("a", "c"):
                members.renew(members.check(worker, job.epochs[worker]), job.now_s)
            job.wait(1)
    else:
        job.join("b")
    assert job.outcome("a").status is Status.APPLIED
    assert job.outcome("c").status is Status.APPLIED


def test_who_waits_and_leaves_may_know() -> None:
    job = ready(0, "a", "b")
    job.push("a")
    epoch = job.epochs["a"]
    job.join("a")
    assert job.outcome("a", seq=1, epoch=epoch).status is Status.APPLIED
    job.push("a")
    assert job.outcome("a") is None, "it starts beside the slowest, and is one ahead again"


def test_a_joiner_starts_beside_the_slowest() -> None:
    job = ready(1, "a", "b")
    for worker in ("a", "b", "a", "b", "a"):
        job.push(worker)
    job.join("c")
    job.push("c")
    job.push("c")
    assert job.outcome("c") is None
    assert job.machine.waiting_for(job.now_s).startswith("c waits for b (last seen")
    job.push("b")
    assert job.outcome("c") is not None


def test_consumed_is_consumed_whatever_the_outcome() -> None:
    job = ready(0, "a", "b")
    job.push("a", magnitude_max=float("inf"))
    assert job.outcome("a") is None, "a rejected push, too, is a step ahead of b"
    job.push("b", base=Version("other", 0))
    assert job.outcome("a").reason is Reason.NON_FINITE
    assert job.outcome("b").reason is Reason.LINEAGE_CHANGED


def test_in_words_who_waits_for_whom() -> None:
    job = ready(0, "a", "b", "c")
    job.push("a")
    job.push("c")
    assert job.machine.waiting_for(job.now_s) == "2 workers wait for b (last seen 0.0 s ago, lease 10 s), 1 behind"


def test_the_end_of_the_job_is_the_end_of_waiting() -> None:
    job = ready(0, "a", "b", steps_max=2)
    job.auto_apply = False
    job.push("a")
    job.send(Applied(0))
    assert job.outcome("a") is None
    job.push("b")
    job.send(Applied(1))
    assert job.machine.state.finished
    assert job.outcome("a").status is Status.APPLIED
    assert job.outcome("b").status is Status.APPLIED


def test_a_restart_without_loss_keeps_the_clocks() -> None:
    before = ready(1, "a", "b")
    for worker in ("a", "b", "a", "a"):
        before.push(worker)
    assert before.outcome("a") is None
    job = restored(before)
    assert job.machine.outcome_of("a", job.epochs["a"], 3) == Pending()
    job.push("b")
    assert job.outcome("a", seq=3).applied_step == 3


def test_a_restart_with_loss_forgets_them() -> None:
    before = ready(1, "a", "b")
    for worker in ("a", "b", "a", "a"):
        before.push(worker)
    job = restored(before, fresh_lineage="lineage-2")
    job.join("a", "b")
    job.push("a")
    assert job.outcome("a") is not None
