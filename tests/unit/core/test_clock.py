"""The clock of a job: what holds at which step, live changes, and rules that have their own idea of the rate."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from optimd_server.core.clock import PENDING_MAX
from optimd_server.core.effects import Apply, ControlRecord, Reason
from optimd_server.core.events import Applied, Prepared, UpdateRequested
from optimd_server.core.saved import saved_state
from optimd_server.schedules import momentum_of, value_at
from optimdpb.errors import InvalidSpec, Refused
from optimdpb.specs import (
    SGD,
    SGDM,
    SWATS,
    AdaBound,
    Adam,
    Async,
    Constant,
    Group,
    Layout,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    RMSProp,
    Sequence,
    Ssp,
    Sync,
    Table,
    Tensor,
    Warmup,
)

from tests.unit.core.conftest import Job, train, training
from tests.unit.core.test_saved import restored

RAMP = Linear(0.0, 1.0, steps=100)


def row(job: Job) -> np.ndarray[Any, Any]:
    """The scalars of the last update's first group."""
    return [effect for effect in job.effects if isinstance(effect, Apply)][-1].scalars[0]


@pytest.mark.parametrize("model", [Sync(1), Async(), Ssp(0)], ids=str)
def test_every_round_has_the_rate_of_its_step(model: Any) -> None:
    job = training(SGD(RAMP), 5, consistency=model)
    assert job.rates() == [value_at(RAMP, t) for t in range(5)]
    assert [job.outcome("w0", seq).learning_rate for seq in (4, 5)] == job.rates()[3:]  # type: ignore[union-attr]


def test_a_change_holds_from_its_step_on() -> None:
    job = training(SGD(RAMP), 2)
    answer = job.update("a", at_step=4, lr=0.5)
    assert (answer.revision, answer.at_step) == (1, 4)
    train(job, 4)
    assert job.rates() == [0.0, 0.01, 0.02, 0.03, 0.5, 0.5]
    assert [(entry.change, entry.step, entry.requester, entry.unix_s) for entry in job.machine.state.history][1:] == [
        ("lr = constant(lr=0.5)", 4, "operator", 1e9)
    ]
    assert any(isinstance(effect, ControlRecord) and effect.change == "update" for effect in job.effects)


def test_a_new_schedule_sees_the_global_step() -> None:
    job = training(SGD(0.5), 2)
    job.update("a", lr=RAMP)
    train(job, 2)
    assert job.rates() == [0.5, 0.5, 0.02, 0.03]


def test_who_is_rejected_in_the_round_before_a_change_is_told_the_new_rate() -> None:
    job = Job(optimizer=SGD(0.5)).ready()
    job.join("w0", "w1")
    job.update("a", at_step=1, lr=0.25)
    job.push("w0", math.nan)
    job.push("w1")
    applied, rejected = job.outcome("w1"), job.outcome("w0")
    assert applied is not None
    assert rejected is not None
    assert (applied.applied_step, applied.learning_rate) == (0, 0.5)
    assert (rejected.applied_step, rejected.learning_rate) == (1, 0.25)


def test_without_a_step_a_change_holds_for_the_first_update_that_is_not_on_its_way() -> None:
    job = training(SGD(0.5))
    job.auto_apply = False
    job.push("w0")
    assert job.update("a", lr=0.25).at_step == 1
    with pytest.raises(Refused, match="expected a step from 1 on, got 0") as refused:
        job.update("b", at_step=0, lr=0.1)
    assert refused.value.reason == "STEP_PASSED"
    job.auto_apply = True
    job.send(Applied(0))
    train(job, 1)
    assert job.rates() == [0.5, 0.25]


def test_of_two_changes_at_one_step_the_later_holds_and_others_stay() -> None:
    job = training(SGDM(0.5))
    job.update("a", at_step=1, lr=0.1, momentum=0.5)
    job.update("b", at_step=1, lr=0.2)
    train(job, 2)
    assert job.rates() == [0.5, 0.2]
    assert job.rounds()[1].hyper_parameters == (("momentum", 0.5),)


def test_changes_that_come_out_of_order_hold_in_order() -> None:
    job = training(SGD(0.5))
    job.update("later", at_step=2, lr=0.2)
    job.update("sooner", at_step=1, lr=0.1)
    train(job, 4)
    assert job.rates() == [0.5, 0.1, 0.2, 0.2]


def test_a_change_is_undone_by_the_same_call() -> None:
    job = training(SGDM(RAMP, momentum=0.75))
    before = job.machine.state.clock.schedules()
    job.update("a", lr=0.5)
    train(job, 1)
    job.update("undo", **before)
    train(job, 1)
    assert job.rates() == [0.5, 0.01]
    assert job.machine.state.clock.optimizer == SGDM(RAMP, momentum=0.75)


def test_asking_again_gets_the_first_answer() -> None:
    job = training(SGD(0.5), 1)
    first = job.update("a", expected_revision=0, lr=0.1)
    train(job, 3)
    assert job.update("a", expected_revision=0, lr=0.1) == first
    assert job.machine.state.clock.revision == 1
    with pytest.raises(Refused, match="which asked for lr = constant") as refused:
        job.update("a", expected_revision=0, lr=0.2)
    assert refused.value.reason == "INVALID_UPDATE"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another revision": ({"lr": 0.1, "expected_revision": 3}, "REVISION_MISMATCH", "at revision 3, it is at 1"),
    "a step made": ({"lr": 0.1, "at_step": 1}, "STEP_PASSED", "from 2 on, got 1"),
    "a negative step": ({"lr": 0.1, "at_step": -1}, "STEP_PASSED", "from 2 on, got -1"),
    "a step that never comes": ({"lr": 0.1, "at_step": 10}, "INVALID_UPDATE", "at most 9"),
    "nothing": ({}, "INVALID_UPDATE", "a schedule, a state or steps_max"),
    "no such hyper-parameter": ({"beta1": 0.1}, "INVALID_SPEC", "schedules.beta1: expected one of momentum"),
    "out of range": ({"momentum": 1.0}, "INVALID_SPEC", "schedules.momentum: expected a number from 0 to below 1"),
    "out of range at its end": ({"momentum": Linear(0.5, 1.0, 10)}, "INVALID_SPEC", "schedules.momentum"),
    "a plateau of another": ({"momentum": Plateau(0.5)}, "INVALID_SPEC", "only lr may follow the loss"),
    "against another field": ({"momentum": 0.0}, "INVALID_SPEC", "nesterov"),
}


@pytest.mark.parametrize(("change", "reason", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refused_change_changes_nothing(change: dict[str, Any], reason: str, words: str) -> None:
    job = training(SGDM(0.5, nesterov=True), 2, steps_max=10)
    job.update("a", lr=0.25)
    before = saved_state(job.machine)
    with pytest.raises(Refused, match=words) as refused:
        job.update("b", **change)
    assert refused.value.reason == reason
    assert saved_state(job.machine) == before


def test_a_change_that_another_one_to_come_forbids_is_refused() -> None:
    job = training(SGDM(0.5, dampening=0.0))
    job.update("a", at_step=5, momentum=0.5)
    with pytest.raises(InvalidSpec):
        job.update("b", at_step=3, momentum=2.0)
    job = training(SGDM(0.5, momentum=0.9, nesterov=True))
    job.update("a", at_step=5, lr=OneCycle(0.1, 10))
    with pytest.raises(InvalidSpec, match="nesterov"):
        job.update("b", at_step=5, lr=OneCycle(0.1, 10, momentum_min=0.0))


@pytest.mark.parametrize(
    ("request_id", "requester", "field"),
    [("", "me", "request_id"), ("i" * 129, "me", "request_id"), ("i", "m" * 129, "requester")],
)
def test_names_have_their_length(request_id: str, requester: str, field: str) -> None:
    job = training(SGD(0.5))
    with pytest.raises(Refused, match=field):
        job.send(UpdateRequested(request_id, requester, 0.0, None, None, (("lr", Constant(0.1)),), None))


def test_changes_to_come_are_bounded() -> None:
    job = training(SGD(0.5))
    for place in range(PENDING_MAX):
        job.update(str(place), at_step=10 + place, lr=0.1)
    with pytest.raises(Refused, match="at most 100 changes to come"):
        job.update("more", at_step=5, lr=0.1)


def test_a_job_that_is_over_or_not_begun_takes_no_change() -> None:
    job = training(SGD(0.5), 1, steps_max=1)
    with pytest.raises(Refused, match="the job is FINISHED"):
        job.update("a", lr=0.1)
    with pytest.raises(Refused, match="waits for its parameters"):
        Job().update("a", lr=0.1)


def test_what_is_scheduled_reaches_the_update_and_groups_keep_their_own() -> None:
    layout = Layout((Tensor("w", (3,)), Tensor("b", (3,))))
    decay = Linear(0.0, 0.5, steps=2)
    groups = (Group("b", weight_decay=0.25, lr_multiplier=2.0),)
    job = training(SGD(0.5, schedules={"weight_decay": decay}), 3, layout=layout, groups=groups)
    scalars = [effect.scalars.tolist() for effect in job.effects if isinstance(effect, Apply)]
    # lr and coupled decay of both groups
    assert [[rows[0][:2], rows[1][:2]] for rows in scalars] == [
        [[0.5, decayed], [1.0, 0.25]] for decayed in (0.0, 0.25, 0.5)
    ]


def test_a_change_of_a_number_keeps_what_else_was_changed() -> None:
    job = training(SGDM(0.5))
    job.update("a", weight_decay=0.1)
    job.update("b", momentum=0.5)
    train(job, 1)
    assert job.rounds()[-1].hyper_parameters == (("momentum", 0.5), ("weight_decay", 0.1))


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (SGDM(OneCycle(1.0, 20)), "momentum"),
        (Adam(OneCycle(1.0, 20)), "beta1"),
        (Adam(Warmup(OneCycle(1.0, 20), 3)), "beta1"),
        (RMSProp(OneCycle(1.0, 20), momentum=0.5), "momentum"),
        (SGD(OneCycle(1.0, 20)), None),
        (RMSProp(OneCycle(1.0, 20)), None),
        (SGDM(RAMP), None),
    ],
    ids=str,
)
def test_one_cycle_drives_the_momentum_of_rules_that_have_one(optimizer: Any, name: str | None) -> None:
    job = training(optimizer, 12)
    momentum = momentum_of(OneCycle(1.0, 20))
    assert momentum is not None
    expected = [() if name is None else ((name, momentum(t)),) for t in range(12)]
    assert [record.hyper_parameters for record in job.rounds()] == expected


def test_a_momentum_that_is_scheduled_itself_is_not_driven() -> None:
    job = training(SGDM(OneCycle(1.0, 20), schedules={"momentum": 0.5}), 3)
    assert {record.hyper_parameters for record in job.rounds()} == {(("momentum", 0.5),)}


def test_what_is_checked_once_is_not_checked_in_the_middle_of_training() -> None:
    """Nesterov forbids momentum 0, which this cycle would reach, were the momentum not scheduled or the group's own."""
    cycle = OneCycle(1.0, 20, momentum_min=0.0)
    scheduled = SGDM(cycle, nesterov=True, schedules={"momentum": Linear(0.5, 0.9, 10)})
    job = training(scheduled, 12, groups=())
    assert len(job.rounds()) == 12


def test_a_change_that_a_group_forbids_is_refused() -> None:
    base = SGDM(0.5, nesterov=True, schedules={"momentum": 0.9})
    job = training(base, 1, groups=(Group("w", momentum=0.5),))
    with pytest.raises(InvalidSpec, match=r"groups\[0\]"):
        job.update("a", lr=OneCycle(1.0, 20, momentum_min=0.0))
    job.update("a", lr=OneCycle(1.0, 20))
    train(job, 5)
    assert row(job)[3] == np.float32(0.9)  # no tensor is the base's, the cycle leaves what is scheduled
    rows = [effect for effect in job.effects if isinstance(effect, Apply)][-1].scalars
    assert rows[1][3] == np.float32(0.5)


def test_a_long_schedule_is_cut_off_in_words_alone() -> None:
    def points(last: float) -> Table:
        return Table([*((step, 0.5) for step in range(1000)), (1000, last)])

    job = training(SGD(0.5))
    first = job.update("a", lr=points(0.5))
    assert len(job.machine.state.history[-1].change) == 300
    assert job.update("a", lr=points(0.5)) == first
    with pytest.raises(Refused, match="expected a new one"):
        job.update("a", lr=points(0.25))
    assert len(json.dumps(job.machine.state.clock.saved()["answers"])) < 1000


def test_one_cycle_drives_momentum_only_while_it_gives_the_rate() -> None:
    job = training(SGDM(Sequence([(2, 0.1), (10, OneCycle(1.0, 10))])), 4)
    assert [bool(record.hyper_parameters) for record in job.rounds()] == [False, False, True, True]


def test_a_rule_that_learned_its_rate_follows_the_schedule_from_there() -> None:
    job = training(SWATS(1.0, switch_tolerance=1e9), consistency=Sync(1))
    job.auto_apply = False
    for step in range(4):
        if step == 3:
            job.update("a", lr=0.25)
        job.push("w0")
        if step < 2:
            job.send(Prepared(step, np.array([[4.0], [2.0]])))
        job.send(Applied(step))
    learned = job.machine.state.memories[0][2]
    assert job.machine.state.memories[0][0] == 1.0
    assert row(job)[5] == np.float32((1.0 - 0.9) * learned * 0.25)


def test_the_bounds_of_adabound_go_with_the_schedule_in_force() -> None:
    job = training(AdaBound(0.5, final_lr=0.1))
    job.update("a", at_step=1, lr=MultiStep(4.0, [2], 0.5))
    train(job, 3)
    uppers = [effect.scalars[0][7] for effect in job.effects if isinstance(effect, Apply)]
    expected = [0.1 * share * (1 + 1 / (1e-3 * k)) for k, share in ((1, 1.0), (2, 1.0), (3, 0.5))]
    assert uppers == pytest.approx(expected, rel=1e-6)


def test_the_clock_goes_on_after_a_restart() -> None:
    schedule = Sequence([(3, Warmup(RAMP, 2)), (5, Plateau(1.0, patience=0))])
    job = training(SGDM(schedule))
    job.update("a", at_step=2, weight_decay=Linear(0.0, 0.1, 10))
    job.update("b", at_step=6, momentum=0.5)
    train(job, 5, loss=1.0)
    again = restored(job)
    assert again.machine.state.clock.saved() == job.machine.state.clock.saved()
    assert json.dumps(saved_state(again.machine)["clock"])
    for after in (job, again):
        train(after, 3, loss=1.0)
        assert after.update("b", at_step=6, momentum=0.5).revision == 2
        with pytest.raises(Refused, match="which asked for"):
            after.update("b", at_step=7, momentum=0.5)
    assert [dataclasses.replace(record, outcomes=()) for record in again.rounds()] == [
        dataclasses.replace(record, outcomes=(), contributions=again.rounds()[place].contributions)
        for place, record in enumerate(job.rounds()[5:])
    ]
    assert job.outcome("w0").reason is Reason.NONE  # type: ignore[union-attr]
