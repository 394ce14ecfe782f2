"""Sync rounds that do not wait for everybody: quorum, timeout, and both."""

from __future__ import annotations

import pytest
from optimd_server.core.effects import Apply, Reason, Status
from optimdpb.errors import InvalidSpec
from optimdpb.specs import Sync

from tests.unit.core.conftest import LEASE_S, TICK_S, Job


def contributors(job: Job) -> list[list[str]]:
    """Who is in each update so far."""
    return [[part.worker for part in c.contributions] for c in job.commands() if isinstance(c, Apply)]


def rows(job: Job, *workers: str) -> Job:
    """Ready, joined."""
    job.ready().join(*workers)
    return job


def alive(job: Job, seconds: int, *workers: str) -> None:
    """Time passes while these workers give signs of life."""
    for _ in range(seconds):
        for worker in workers:
            members = job.machine.state.members
            members.renew(members.check(worker, job.epochs[worker]), job.now_s)
        job.wait(1)


def test_a_quorum_closes_on_the_first_pushes_and_the_rest_are_late() -> None:
    job = rows(Job(consistency=Sync(3, quorum=2)), "a", "b", "c")
    job.push("c")
    assert contributors(job) == []
    slow = job.push_of("b")
    job.push("a")
    assert contributors(job) == [["a", "c"]]
    job.push("b", base=slow.base)
    assert job.outcome("b").reason is Reason.LATE
    job.push("b")
    job.push("c")
    assert contributors(job) == [["a", "c"], ["b", "c"]]


def test_a_rejected_push_is_no_part_of_a_quorum() -> None:
    job = rows(Job(consistency=Sync(3, quorum=2)), "a", "b", "c")
    job.push("a", magnitude_max=float("inf"))
    job.push("b")
    assert contributors(job) == []
    job.push("c")
    assert contributors(job) == [["b", "c"]]
    assert job.outcome("a").status is Status.REJECTED


def test_when_all_have_spoken_a_quorum_waits_for_nobody() -> None:
    job = rows(Job(consistency=Sync(2, quorum=2)), "a", "b")
    job.push("a", magnitude_max=float("inf"))
    job.push("b")
    assert contributors(job) == [["b"]]


def test_a_quorum_is_enough_after_one_worker_died() -> None:
    job = rows(Job(consistency=Sync(3, quorum=2)), "a", "b", "c")
    alive(job, int(LEASE_S) + 2, "a", "b")
    assert len(job.machine.state.members) == 2
    for _ in range(3):
        job.push("a")
        job.push("b")
    assert contributors(job) == [["a", "b"]] * 3


def test_a_quorum_needs_its_workers_live() -> None:
    job = rows(Job(consistency=Sync(3, workers_min=3, quorum=2)), "a", "b", "c")
    job.leave("c")
    job.push("a")
    job.push("b")
    assert contributors(job) == []
    assert job.machine.waiting_for(job.now_s) == "round 0 closes with 3 workers: 2 live, c left"


def test_a_timeout_ends_the_waiting_once_enough_are_there() -> None:
    job = rows(Job(consistency=Sync(4, workers_min=2, round_timeout_s=3.0)), "a", "b", "c", "d")
    job.push("a")
    alive(job, 2, "a", "b", "c", "d")
    assert job.machine.waiting_for(job.now_s).startswith("round 0 waits 1.0 s more for b (last seen")
    alive(job, 2, "a", "b", "c", "d")
    assert contributors(job) == [], "the time is over, one push is not enough"
    assert job.machine.waiting_for(job.now_s).startswith("round 0 waits for 1 of 3: b (last seen")
    job.push("d")
    assert contributors(job) == [["a", "d"]], "the second is enough at once"
    job.push("b")
    job.push("c")
    job.push("a")
    assert contributors(job) == [["a", "d"]], "the next round has its own time"
    alive(job, 3, "a", "b", "c", "d")
    assert contributors(job) == [["a", "d"], ["a", "b", "c"]]


def test_with_a_timeout_a_quorum_waits_for_the_others_until_then() -> None:
    job = rows(Job(consistency=Sync(3, quorum=2, round_timeout_s=3.0)), "a", "b", "c")
    job.push("a")
    job.push("b")
    assert contributors(job) == []
    job.push("c")
    assert contributors(job) == [["a", "b", "c"]]
    job.push("a")
    job.push("b")
    alive(job, 3, "a", "b", "c")
    assert contributors(job)[1:] == [["a", "b"]]


def test_time_that_the_server_slept_does_not_run_out_a_round() -> None:
    job = rows(Job(consistency=Sync(3, quorum=2, round_timeout_s=3.0)), "a", "b", "c")
    alive(job, 1, "a", "b", "c")
    job.push("a")
    job.push("b")
    job.now_s += 1000 - TICK_S
    job.wait(1)
    assert contributors(job) == []
    alive(job, 2, "a", "b", "c")
    assert contributors(job) == [["a", "b"]]


def test_waiting_workers_are_named_up_to_a_number() -> None:
    job = rows(Job(consistency=Sync(40)), *(f"w{i:02}" for i in range(40)))
    words = job.machine.waiting_for(job.now_s)
    assert "w09 (last" in words
    assert "w10" not in words
    assert words.endswith(", 30 more")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("quorum", {"quorum": 3}),
        ("quorum", {"quorum": 0}),
        ("round_timeout_s", {"round_timeout_s": 0.0, "quorum": 1}),
        ("round_timeout_s", {"round_timeout_s": 1.0, "workers_min": 2}),
        ("workers_min", {"workers_min": 3}),
    ],
)
def test_what_makes_no_sense_is_refused(field: str, values: dict[str, float]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Sync(2, **values)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_quorum_is_the_default_of_workers_min() -> None:
    assert Sync(5, quorum=3).members_min(left=0) == 3
    assert Sync(5, quorum=3, workers_min=4).members_min(left=0) == 4
    assert Sync(5).members_min(left=0) == 5
