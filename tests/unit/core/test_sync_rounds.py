"""When a Sync round opens and closes, whom it counts, what it answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optimd_server.core.effects import (
    Apply,
    DropStaging,
    MemberRecord,
    OutcomeRecord,
    Prepare,
    Reason,
    RoundRecord,
    Status,
)
from optimd_server.core.events import Applied, PushCommitted, PushOffered, Version
from optimdpb.specs import SGD, Async, ClipGlobalNorm, Linear, Sync

from tests.unit.core.conftest import LEASE_S, LINEAGE, Job


def test_a_round_closes_when_every_member_has_pushed(job: Job) -> None:
    job.join("a", "b")
    job.push("b", weight=1.0)
    assert job.commands() == []
    assert job.outcome("b") is None
    job.push("a", weight=3.0)
    (apply,) = job.commands()
    assert isinstance(apply, Apply)
    assert [(c.worker, c.scale) for c in apply.contributions] == [("a", 0.75), ("b", 0.25)]
    assert job.machine.version == Version(LINEAGE, 1)
    for worker in ("a", "b"):
        outcome = job.outcome(worker)
        assert outcome is not None
        assert (outcome.status, outcome.applied_step, outcome.staleness) == (Status.APPLIED, 0, 0)
        assert (outcome.learning_rate, outcome.world_size) == (0.5, 2)
    assert [job.outcome(w).rank for w in ("a", "b")] == [0, 1]  # type: ignore[union-attr]


def test_scales_are_float32_of_the_float64_quotient() -> None:
    job = Job(consistency=Sync(3)).ready()
    job.join("a", "b", "c")
    for worker, weight in (("c", 1e-3), ("a", 7.0), ("b", 250.5)):
        job.push(worker, weight=weight)
    (apply,) = job.commands()
    assert isinstance(apply, Apply)
    total = 7.0 + 250.5 + 1e-3
    assert [c.scale for c in apply.contributions] == [float(np.float32(w / total)) for w in (7.0, 250.5, 1e-3)]


def test_sum_reduction_ignores_weights() -> None:
    job = Job(reduction="sum").ready()
    job.join("a", "b")
    job.push("a", weight=3.0)
    job.push("b", weight=5.0)
    (apply,) = job.commands()
    assert isinstance(apply, Apply)
    assert [c.scale for c in apply.contributions] == [1.0, 1.0]


def test_the_learning_rate_is_that_of_the_step() -> None:
    job = Job(consistency=Sync(1), optimizer=SGD(Linear(1.0, 0.0, 4))).ready()
    job.join("a")
    for _ in range(6):
        job.push("a")
    rates = [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [c.scalars[0, 0] for c in job.commands() if isinstance(c, Apply)] == rates
    assert [e.learning_rate for e in job.effects if isinstance(e, RoundRecord)] == rates


def test_round_0_opens_when_all_workers_have_joined_and_counts_early_pushes(job: Job) -> None:
    job.join("a")
    job.push("a")
    assert job.commands() == []
    assert "opens with 2 workers: 1 live" in job.machine.waiting_for(job.now_s)
    job.join("b")
    job.push("b")
    assert job.outcome("a").status is Status.APPLIED  # type: ignore[union-attr]
    assert job.machine.version.step == 1


def test_a_joiner_is_a_member_from_the_next_opening_on() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("a", "b")
    job.push("a")
    job.join("c")
    job.push("c")
    assert job.outcome("c") is None, "a joiner's push waits for the round to close"
    job.push("b")
    assert job.outcome("c").reason is Reason.LATE  # type: ignore[union-attr]
    assert {c.worker for c in job.commands()[0].contributions} == {"a", "b"}  # type: ignore[union-attr]
    for worker in ("a", "b", "c"):
        job.push(worker)
    assert {c.worker for c in job.commands()[1].contributions} == {"a", "b", "c"}  # type: ignore[union-attr]
    assert job.outcome("a").world_size == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["left", "expired", "superseded"])
@pytest.mark.parametrize("committed", [True, False])
def test_a_member_goes_in_the_middle_of_a_round(how: str, committed: bool) -> None:
    job = Job(consistency=Sync(3, workers_min=2)).ready()
    job.join("a", "b", "c")
    old_epoch = job.epochs["c"]
    if committed:
        job.push("c")
    if how == "left":
        job.leave("c")
    elif how == "superseded":
        job.join("c")
    else:
        for _ in range(int(LEASE_S) + 2):
            job.wait(1)
            job.machine.state.members.renew(job.machine.state.members.check("a", job.epochs["a"]), job.now_s)
            job.machine.state.members.renew(job.machine.state.members.check("b", job.epochs["b"]), job.now_s)
    assert MemberRecord("c", old_epoch, how) in job.effects
    assert (DropStaging("c", old_epoch) in job.effects) is not committed
    job.push("a")
    job.push("b")
    (apply,) = job.commands()
    assert isinstance(apply, Apply)
    assert [c.worker for c in apply.contributions] == (["a", "b", "c"] if committed else ["a", "b"])
    if committed:
        outcome = job.outcome("c", seq=1, epoch=old_epoch)
        assert outcome is not None
        assert outcome.status is Status.APPLIED
        assert outcome.rank == -1
        assert DropStaging("c", old_epoch) in job.effects


def test_too_few_live_workers_hold_the_round_open() -> None:
    job = Job(consistency=Sync(3)).ready()
    job.join("a", "b", "c")
    job.push("a")
    job.push("b")
    job.leave("c", failed=True)
    assert job.commands() == []
    assert "closes with 3 workers: 2 live" in job.machine.waiting_for(job.now_s)
    job.join("d")
    (apply,) = job.commands()
    assert [c.worker for c in apply.contributions] == ["a", "b"]  # type: ignore[union-attr]


def test_when_all_members_are_gone_the_round_is_void_and_opens_again() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("a", "b")
    job.leave("a", failed=True)
    job.leave("b", failed=True)
    job.join("c")
    assert job.machine.state.counters.rounds_void == 0
    job.push("c")
    job.join("d")
    assert job.machine.state.counters.rounds_void == 1
    job.push("d")
    assert [c.worker for c in job.commands()[0].contributions] == ["c", "d"]  # type: ignore[union-attr]
    assert job.machine.version.step == 1


def test_a_held_push_whose_worker_goes_is_discarded(job: Job) -> None:
    job.join("a")
    job.push("a")
    job.leave("a")
    assert job.outcome("a").reason is Reason.NOT_A_MEMBER  # type: ignore[union-attr]


def test_a_rejected_push_is_a_word_with_weight_0(job: Job) -> None:
    job.join("a", "b")
    job.push("a", magnitude_max=float("inf"))
    assert job.outcome("a") is None, "it is answered with the round"
    job.push("b")
    assert job.outcome("a").reason is Reason.NON_FINITE  # type: ignore[union-attr]
    (apply,) = job.commands()
    assert [(c.worker, c.scale) for c in apply.contributions] == [("b", 1.0)]  # type: ignore[union-attr]
    assert job.machine.state.counters.rejected == 1


def test_a_round_of_rejected_pushes_is_void(job: Job) -> None:
    job.join("a", "b")
    before = job.machine.version
    job.push("a", magnitude_max=float("inf"))
    job.push("b", base_step=9)
    assert job.outcome("b").reason is Reason.BASE_IN_FUTURE  # type: ignore[union-attr]
    assert job.machine.version == before
    assert job.commands() == []
    assert job.machine.state.counters.rounds_void == 1
    job.push("a")
    job.push("b")
    assert job.machine.version.step == 1


@pytest.mark.parametrize(
    ("magnitudes", "culprits"),
    [((1e30, 1.0), {"a"}), ((1e30, 1e31), {"a", "b"}), ((1.2e18, 0.9e18), {"a"}), ((2e18, 1.0), set())],
)
def test_a_sum_too_large_voids_the_round(magnitudes: tuple[float, float], culprits: set[str]) -> None:
    job = Job(reduction="mean").ready()
    job.join("a", "b")
    job.push("a", magnitude_max=magnitudes[0])
    job.push("b", magnitude_max=magnitudes[1])
    void = magnitudes[0] + magnitudes[1] > 2e18 + 10
    assert job.machine.version.step == (0 if void else 1)
    for worker in ("a", "b"):
        outcome = job.outcome(worker)
        assert outcome is not None
        expected = Reason.TOO_LARGE if worker in culprits else Reason.ROUND_VOID if void else Reason.NONE
        assert outcome.reason is expected
    assert job.machine.state.rule_count == job.machine.version.step


def test_clip_goes_through_prepare_and_decides_the_factor() -> None:
    job = Job(consistency=Sync(1), clip=ClipGlobalNorm(1.5)).ready()
    job.join("a")
    job.push("a")
    prepare, apply = job.commands()
    assert isinstance(prepare, Prepare)
    assert isinstance(apply, Apply)
    assert prepare.contributions == apply.contributions
    assert apply.limits.tolist() == [[0.5, math.inf]], "the norm is sqrt(4 + 5)"


def test_what_happens_while_an_update_is_on_its_way(job: Job) -> None:
    job.auto_apply = False
    job.join("a", "b")
    job.push("a")
    job.push("b")
    job.join("c")
    job.push("c")
    job.leave("b")
    assert job.machine.version.step == 0
    assert job.outcome("a") is None
    job.join("b")
    job.send(Applied(0))
    assert job.machine.version.step == 1
    assert job.outcome("a").status is Status.APPLIED  # type: ignore[union-attr]
    assert job.outcome("c").reason is Reason.LATE  # type: ignore[union-attr]
    assert job.machine.rounds.round is not None
    assert set(job.machine.rounds.round.members) == {"a", "b", "c"}


def test_steps_max_finishes_the_job(job: Job) -> None:
    job = Job(consistency=Sync(2, workers_min=1), steps_max=1).ready()
    job.join("a", "b")
    job.push("a")
    job.join("c")
    job.push("c")
    job.push("b")
    assert job.machine.state.finished
    assert job.outcome("c").reason is Reason.FINISHED  # type: ignore[union-attr]
    job.push("a")
    assert job.outcome("a").reason is Reason.FINISHED  # type: ignore[union-attr]
    assert job.machine.version.step == 1
    assert job.machine.waiting_for(job.now_s) == ""


def test_the_record_of_a_round_holds_what_a_journal_needs(job: Job) -> None:
    job.join("b", "a")
    job.push("b", weight=1.0, loss=4.0)
    job.push("a", weight=3.0, loss=float("nan"))
    (record,) = [e for e in job.effects if isinstance(e, RoundRecord)]
    assert (record.step, record.learning_rate, record.rule_count, record.memories) == (0, 0.5, 0, ((),))
    assert record.loss == 4.0, "a loss that is not finite does not count"
    assert [(worker, outcome.seq) for worker, _, outcome in record.outcomes] == [("a", 1), ("b", 1)]
    assert job.machine.state.last_round is record


def test_every_push_not_applied_is_recorded(job: Job) -> None:
    job.join("a", "b")
    job.push("a")
    job.push("b")
    job.push("a", base_step=0)
    (record,) = [e for e in job.effects if isinstance(e, OutcomeRecord)]
    assert (record.worker, record.outcome.reason, record.outcome.staleness) == ("a", Reason.LATE, 1)


def test_why_not_yet_is_said_in_words(job: Job) -> None:
    job.join("w1", "w3")
    job.push("w1")
    job.wait(4)
    assert job.machine.waiting_for(job.now_s) == "round 0 waits for w3 (last seen 4.0 s ago, lease 10 s)"


def test_what_the_round_will_be_made_of_is_foreseen_when_the_last_words_come_together() -> None:
    job = Job(consistency=Sync(3), reduction="mean").ready()
    job.join("a", "b", "c")
    job.auto_apply = False
    job.push("b", weight=2.0)
    pushes = [job.push_of("c"), job.push_of("a")]
    rounds = job.machine.rounds
    assert rounds.foreseen(pushes[:1]) == (), "another one is awaited"
    assert rounds.foreseen([*pushes, job.push_of("b")]) == (), "it has spoken"
    parts = rounds.foreseen(pushes)
    for push in pushes:
        job.send(PushOffered(push))
        job.send(PushCommitted(push, 1.0))
    (apply,) = job.commands()
    assert apply.contributions == parts  # type: ignore[union-attr]
    assert [(part.worker, part.scale) for part in parts] == [("a", 0.25), ("b", 0.5), ("c", 0.25)]
    assert rounds.foreseen(pushes) == (), "the round is closing"


def test_under_other_models_nothing_is_foreseen() -> None:
    job = Job(consistency=Async()).ready()
    job.join("a", "b")
    assert job.machine.rounds.foreseen([job.push_of("a"), job.push_of("b")]) == ()
