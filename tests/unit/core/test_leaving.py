"""Under Sync a worker that leaves is counted on no more; one that dies or fails is missed."""

from __future__ import annotations

import pytest
from optimd_server.core.effects import Apply, Reason, Status
from optimd_server.core.events import Ticked
from optimd_server.core.saved import restore, saved_state
from optimdpb.specs import SGD, Sync

from tests.unit.core.conftest import LEASE_S, TICK_S, Job


def train(consistency: Sync, batches: dict[str, int], **fields: object) -> Job:
    """Workers that push so many gradients each, then leave."""
    job = Job(optimizer=SGD(0.5), consistency=consistency, **fields).ready()
    job.join(*batches)
    for number in range(max(batches.values())):
        for worker, last in batches.items():
            if number < last:
                job.push(worker)
            elif number == last:
                job.leave(worker)
    return job


def wait(job: Job, seconds: float) -> None:
    for _ in range(int(seconds)):
        job.now_s += TICK_S
        job.send(Ticked())


def contributors(job: Job) -> list[list[str]]:
    return [[part.worker for part in effect.contributions] for effect in job.effects if isinstance(effect, Apply)]


@pytest.mark.parametrize("steps_max", [None, 10, 50])
def test_the_others_go_on_without_who_is_out_of_data(steps_max: int | None) -> None:
    job = train(Sync(3), {"a": 10, "b": 10, "c": 9}, steps_max=steps_max)
    assert contributors(job) == [["a", "b", "c"]] * 9 + [["a", "b"]]
    last = [effect for effect in job.effects if isinstance(effect, Apply)][-1]
    assert [part.scale for part in last.contributions] == [0.5, 0.5], "the mean is over those who are there"


def test_once_all_have_left_another_run_begins_with_all_of_them() -> None:
    job = train(Sync(2, workers_min=1), {"a": 1, "b": 1})
    job.leave("a")
    job.leave("b")
    job.join("b")
    job.push("b")
    assert job.machine.waiting_for(job.now_s) == "round 1 opens with 2 workers: 1 live"
    job.join("a")
    job.push("a")
    assert contributors(job) == [["a", "b"]] * 2


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_one_after_the_other_may_leave_and_the_last_works_alone(order: str) -> None:
    batches = {worker: 2 + place for place, worker in enumerate(order)}
    job = train(Sync(3), batches)
    assert contributors(job) == [["a", "b", "c"]] * 2 + [sorted(order[1:]), [order[2]]]


def test_a_push_that_waits_as_its_worker_and_then_all_others_leave_counts() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("a", "b")
    job.push("a")
    job.leave("a")
    assert job.outcome("a") is None
    job.leave("b")
    assert job.outcome("a").status is Status.APPLIED  # type: ignore[union-attr]
    assert job.machine.waiting_for(job.now_s) == "all workers have left: round 1 opens with 2 workers"


@pytest.mark.parametrize("how", ["expired", "failed"])
def test_who_dies_or_fails_is_missed(how: str) -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("a", "b")
    if how == "failed":
        job.leave("b", failed=True)
        job.push("a")
    else:
        wait(job, LEASE_S - 1)
        job.push("a")
        wait(job, 2)
    assert contributors(job) == []
    assert job.machine.waiting_for(job.now_s) == "round 0 closes with 2 workers: 1 live"
    job.join("b")
    assert contributors(job) == [["a"]]


@pytest.mark.parametrize("workers_min", [2, 3])
def test_leaving_lowers_nothing_below_a_workers_min_that_was_given(workers_min: int) -> None:
    job = Job(consistency=Sync(3, workers_min=workers_min)).ready()
    job.join("a", "b", "c")
    job.push("a")
    job.leave("c")
    job.leave("b")
    assert contributors(job) == []
    assert job.machine.waiting_for(job.now_s) == f"round 0 closes with {workers_min} workers: 1 live, c, b left"


def test_one_of_the_same_name_counts_again() -> None:
    job = Job(consistency=Sync(3)).ready()
    job.join("a", "b", "c")
    job.leave("c")
    job.leave("b", failed=True)
    job.join("c")
    job.push("a")
    job.push("c")
    assert "with 3 workers: 2 live" in job.machine.waiting_for(job.now_s), "b is missed, c is there again"


def test_one_of_another_name_takes_the_place_of_who_left() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("a", "b")
    job.leave("b")
    job.join("c")
    job.leave("c", failed=True)
    assert job.machine.waiting_for(job.now_s) == "round 0 closes with 2 workers: 1 live"


def test_who_was_one_more_than_the_job_needs_lowers_nothing() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("a", "b", "c")
    job.leave("c")
    job.leave("b", failed=True)
    assert "with 2 workers: 1 live" in job.machine.waiting_for(job.now_s)


def test_round_0_opens_with_all_but_those_who_have_left() -> None:
    job = Job(consistency=Sync(3)).ready()
    job.join("a")
    job.leave("a")
    job.join("b")
    job.push("b")
    assert job.machine.waiting_for(job.now_s) == "round 0 opens with 2 workers: 1 live, a left"
    job.join("c")
    job.push("c")
    assert contributors(job) == [["b", "c"]]


def test_a_quorum_is_no_more_than_who_is_left() -> None:
    job = Job(consistency=Sync(3, quorum=2, round_timeout_s=5.0)).ready()
    job.join("a", "b", "c")
    job.leave("b")
    job.leave("c")
    job.push("a")
    assert contributors(job) == [["a"]]


def test_a_round_timeout_alone_bounds_the_wait_for_one_that_lives_and_does_not_push() -> None:
    job = Job(consistency=Sync(3, round_timeout_s=5.0)).ready()
    job.join("a", "b", "c")
    job.push("a")
    wait(job, 4)
    assert contributors(job) == []
    wait(job, 1)
    assert contributors(job) == [["a"]]
    wait(job, 5)
    assert contributors(job) == [["a"]], "one push at least"
    assert job.machine.waiting_for(job.now_s).startswith("round 1 waits for 1 of 3: a (")
    job.leave("c", failed=True)
    job.push("a")
    assert len(contributors(job)) == 1, "and as many workers as ever must live"


@pytest.mark.parametrize("fresh_lineage", [None, "lineage-2"])
def test_a_restart_does_not_forget_who_left(fresh_lineage: str | None) -> None:
    job = train(Sync(3), {"a": 9, "b": 9, "c": 2})
    job.leave("b", failed=True)
    again = Job(consistency=Sync(3))
    again.machine.state.members.last_epoch = 100
    restore(again.machine, saved_state(job.machine), 0.0, fresh_lineage)
    again.join("a", "b")
    again.push("a")
    again.push("b")
    assert contributors(again) == [["a", "b"]]


def test_a_state_of_before_leaving_was_remembered_is_restored() -> None:
    job = train(Sync(2), {"a": 1, "b": 1})
    again = Job(consistency=Sync(2))
    restore(again.machine, {**saved_state(job.machine), "rounds": {}}, 0.0, None)
    assert again.machine.waiting_for(0.0) == "round 1 opens with 2 workers: 2 live"


def test_what_was_held_of_who_leaves_is_discarded() -> None:
    job = Job(consistency=Sync(3)).ready()
    job.join("a")
    job.push("a")
    job.leave("a")
    assert job.outcome("a").reason is Reason.NOT_A_MEMBER  # type: ignore[union-attr]
