"""Async: every push is a round; staleness is measured, scaled, bounded."""

from __future__ import annotations

import numpy as np
import pytest
from optimd_server.core.effects import Apply, Prepare, Reason, Status
from optimd_server.core.events import Applied, Prepared
from optimdpb.errors import InvalidSpec
from optimdpb.specs import Async, ClipGlobalNorm

from tests.unit.core.conftest import Job


def ready(**options: object) -> Job:
    """An Async job with workers a, b and c."""
    spec = {name: options.pop(name) for name in ("clip", "steps_max", "reduction") if name in options}
    job = Job(consistency=Async(**options), **spec).ready()  # type: ignore[arg-type]
    job.join("a", "b", "c")
    return job


def test_each_push_is_an_update_of_its_own() -> None:
    job = ready()
    for worker in ("b", "a", "b"):
        job.push(worker, weight=7.0)
    assert [[(p.worker, p.scale) for p in c.contributions] for c in job.commands()] == [  # type: ignore[union-attr]
        [("b", 1.0)],
        [("a", 1.0)],
        [("b", 1.0)],
    ]
    assert job.machine.version.step == 3
    assert job.machine.waiting_for(job.now_s) == ""


@pytest.mark.parametrize(("scale", "expected"), [("none", [1.0] * 4), ("inverse", [1.0, 0.5, 1 / 3, 0.25])])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_stale_gradients_are_scaled(scale: str, expected: list[float], reduction: str) -> None:
    job = ready(staleness_scale=scale, reduction=reduction)
    for worker in ("a", "b", "c", "a"):
        job.push(worker, base_step=0)
    parts = [c.contributions[0] for c in job.commands() if isinstance(c, Apply)]
    assert [part.scale for part in parts] == [float(np.float32(s)) for s in expected]
    assert [part.share for part in parts] == [1.0] * 4, "what is pushed for a buffer is its value"
    assert [part.base_step for part in parts] == [0] * 4
    assert job.outcome("a").staleness == 3


def test_above_staleness_max_a_push_is_discarded() -> None:
    job = ready(staleness_max=1)
    job.push("a", base_step=0)
    job.push("b", base_step=0)
    job.push("c", base_step=0)
    outcome = job.outcome("c")
    assert (outcome.status, outcome.reason, outcome.staleness) == (Status.DISCARDED, Reason.STALE, 2)
    assert outcome.detail == "its staleness is 2, above staleness_max = 1"
    assert job.machine.version.step == 2


def test_staleness_counts_when_the_turn_comes_not_when_it_was_committed() -> None:
    job = ready(staleness_max=1, staleness_scale="inverse")
    job.auto_apply = False
    for worker in ("a", "b", "c"):
        job.push(worker, base_step=0)
    assert len(job.commands()) == 1
    assert job.outcome("b") is None
    job.send(Applied(0))
    job.send(Applied(1))
    assert [c.contributions[0].scale for c in job.commands()] == [1.0, 0.5]  # type: ignore[union-attr]
    assert job.outcome("c").reason is Reason.STALE


def test_commits_take_turns_in_their_order_through_every_phase() -> None:
    job = ready(clip=ClipGlobalNorm(1.0))
    job.auto_apply = False
    for worker in ("c", "a", "b"):
        job.push(worker)
    for step in range(3):
        job.send(Prepared(step, np.ones((1, 1))))
        job.send(Applied(step))
    assert [p.contributions[0].worker for p in job.commands() if isinstance(p, Prepare)] == ["c", "a", "b"]


def test_what_was_committed_counts_though_its_worker_is_gone() -> None:
    job = ready()
    job.auto_apply = False
    job.push("a")
    job.push("b")
    epoch = job.epochs["b"]
    job.leave("b")
    job.send(Applied(0))
    job.send(Applied(1))
    outcome = job.outcome("b", seq=1, epoch=epoch)
    assert outcome.status is Status.APPLIED
    assert outcome.rank == -1


def test_nobody_waits_for_a_rejected_push() -> None:
    job = ready()
    job.push("a", magnitude_max=float("nan"))
    assert job.outcome("a").reason is Reason.NON_FINITE
    job.push("a", base_step=5)
    assert job.outcome("a").reason is Reason.BASE_IN_FUTURE
    job.push("a", magnitude_max=1e19)
    assert job.outcome("a").reason is Reason.TOO_LARGE
    assert job.machine.state.counters.rounds_void == 1
    assert job.machine.version.step == 0


def test_the_end_discards_what_still_waits() -> None:
    job = ready(steps_max=1)
    job.auto_apply = False
    job.push("a")
    job.push("b")
    job.send(Applied(0))
    assert job.outcome("b").reason is Reason.FINISHED
    job.push("c", base_step=0)
    assert job.outcome("c").reason is Reason.FINISHED


def test_without_workers_it_says_so() -> None:
    job = ready()
    for worker in ("a", "b", "c"):
        job.leave(worker)
    assert job.machine.waiting_for(job.now_s) == "step 0 waits for a worker: 0 live"


def test_compensation_asks_for_no_version_from_before_a_restart() -> None:
    job = ready(delay_compensation=0.1, staleness_max=5)
    job.push("a")
    job.push("a")
    job.machine.state.restored_step = 1
    job.push("b", base_step=0)
    assert job.outcome("b").reason is Reason.STALE
    assert "known from step 1 on" in job.outcome("b").detail
    job.push("b", base_step=1)
    assert job.outcome("b").status is Status.APPLIED


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("staleness_max", {"staleness_max": -1}),
        ("staleness_scale", {"staleness_scale": "half"}),
        ("delay_compensation", {"delay_compensation": 0.0, "staleness_max": 1}),
        ("delay_compensation", {"delay_compensation": 0.1}),
        ("delay_compensation", {"delay_compensation": 0.1, "staleness_max": 0}),
    ],
)
def test_what_makes_no_sense_is_refused(field: str, values: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Async(**values)  # type: ignore[arg-type]
    assert caught.value.field == field
