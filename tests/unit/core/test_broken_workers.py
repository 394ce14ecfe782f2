"""A worker whose pushes are rejected again and again is reported, and set aside if the job says so."""

from __future__ import annotations

import pytest
from optimd_server.core.effects import Apply, MemberRecord, Status
from optimd_server.core.events import PushOffered, SignOfLife
from optimdpb.errors import WorkerSetAside
from optimdpb.specs import Async, Consistency, Ssp, Sync

from tests.unit.core.conftest import Job
from tests.unit.core.test_saved import restored

MODELS = [Sync(2, workers_min=1), Async(), Ssp(1)]
BAD = float("nan")


def rejections(job: Job, worker: str) -> int:
    """Running, as reported."""
    return job.machine.state.members.check(worker, job.epochs[worker]).rejections


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_it_is_counted_until_one_is_applied(model: Consistency) -> None:
    job = Job(consistency=model).ready()
    job.join("a", "b")
    for _ in range(3):
        job.push("a", magnitude_max=BAD)
        job.push("b")
    assert rejections(job, "a") == 3
    job.push("a")
    job.push("b")
    assert rejections(job, "a") == 0
    assert job.machine.state.counters.rejected == 3


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_it_is_set_aside_and_holds_nobody_up(model: Consistency) -> None:
    job = Job(consistency=model, rejections_max=2).ready()
    job.join("a", "b")
    epoch = job.epochs["a"]
    for _ in range(2):
        assert MemberRecord("a", epoch, "set aside") not in job.effects
        job.push("a", magnitude_max=BAD)
        job.push("b")
    assert MemberRecord("a", epoch, "set aside") in job.effects
    assert job.outcome("a", seq=2, epoch=epoch).status is Status.REJECTED
    for event in (PushOffered(job.push_of("a")), SignOfLife("a", epoch)):
        with pytest.raises(WorkerSetAside, match="2 of its pushes were rejected running"):
            job.send(event)
    before = job.machine.version.step
    for _ in range(3):
        job.push("b")
        assert job.outcome("b").status is Status.APPLIED
    assert job.machine.version.step == before + 3
    job.join("a")
    for _ in range(2):
        job.push("a")
        job.push("b")
    assert job.outcome("a").status is Status.APPLIED, "mended, it may come back"


def test_two_broken_workers_in_one_round() -> None:
    job = Job(consistency=Sync(3, workers_min=1), rejections_max=1).ready()
    job.join("a", "b", "c")
    job.push("a", magnitude_max=BAD)
    job.push("b", magnitude_max=BAD)
    job.push("c")
    assert [member.worker for member in job.machine.state.members] == ["c"]
    assert len([c for c in job.commands() if isinstance(c, Apply)]) == 1
    job.push("c")
    assert job.machine.version.step == 2


def test_a_restart_does_not_forget_it() -> None:
    before = Job(consistency=Async(), rejections_max=3).ready()
    before.join("a", "b")
    before.push("a", magnitude_max=BAD)
    before.push("a", magnitude_max=BAD)
    for _ in range(3):
        before.push("b", magnitude_max=BAD)
    job = restored(before)
    assert rejections(job, "a") == 2
    with pytest.raises(WorkerSetAside):
        job.send(SignOfLife("b", job.epochs["b"]))
