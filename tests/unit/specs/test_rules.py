"""Every rule, clip and group as a value: wrong types and ranges by field, unknown names, the wire."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from optimdpb import specs
from optimdpb.codec import job_spec_from_proto, job_spec_to_proto
from optimdpb.errors import InvalidSpec
from optimdpb.specs import (
    SGDM,
    Adam,
    ClipGlobalNorm,
    ClipTensorNorm,
    ClipValue,
    Group,
    JobSpec,
    Layout,
    Optimizer,
    RMSProp,
    Sync,
    Tensor,
)

LAYOUT = Layout((Tensor("layer.w", (2, 3)), Tensor("layer.b", (3,)), Tensor("stats", (3,), "buffer")))
RULES: list[type[Optimizer]] = [
    value
    for name in specs.__all__
    if isinstance(value := getattr(specs, name), type) and issubclass(value, Optimizer) and value is not Optimizer
]
NUMBERS = [(rule, field.name) for rule in RULES for field in dataclasses.fields(rule) if field.type == "float"]
FLAGS = [(rule, field.name) for rule in RULES for field in dataclasses.fields(rule) if field.type == "bool"]
BELOW_ONE = {"beta1", "beta2", "rho", "alpha"}


def spec(optimizer: Optimizer, **more: Any) -> JobSpec:
    return JobSpec(LAYOUT, optimizer, Sync(1), **more)


def test_there_are_18_rules_and_each_says_its_equation() -> None:
    assert len(RULES) == 18
    for rule in RULES:
        assert rule.__doc__
        assert "=" in rule.__doc__ or "Adam" in rule.__doc__


@pytest.mark.parametrize(("rule", "field"), NUMBERS)
def test_a_number_must_be_a_number_in_its_range(rule: type[Optimizer], field: str) -> None:
    wrong: list[object] = ["0.1", None, True, [0.1], math.nan, math.inf, -0.1]
    if field in BELOW_ONE or (field == "momentum" and rule is not RMSProp):
        wrong += [1.0, 2]
    for value in wrong:
        with pytest.raises(InvalidSpec, match="expected") as refused:
            rule(0.1, **{field: value})
        assert refused.value.field == field
    kept = rule(0.1, **{field: np.float32(0.5)})
    assert getattr(kept, field) == 0.5
    assert type(getattr(kept, field)) is float, "so that equal specifications are equal"


@pytest.mark.parametrize(("rule", "field"), FLAGS)
def test_a_flag_must_be_a_flag(rule: type[Optimizer], field: str) -> None:
    for value in (0, 1, "yes", None):
        with pytest.raises(InvalidSpec, match="expected") as refused:
            rule(0.1, **{field: value})
        assert refused.value.field == field


@pytest.mark.parametrize("rule", RULES)
def test_an_unknown_hyper_parameter_is_an_error(rule: type[Optimizer]) -> None:
    with pytest.raises(InvalidSpec, match=r"pace: \w+ has no such setting: it has lr, "):
        rule(0.1, pace=0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize(("rule", "field"), NUMBERS)
def test_every_number_survives_the_wire(rule: type[Optimizer], field: str) -> None:
    job = spec(rule(0.1, **{field: 1 / 3}))
    assert job_spec_from_proto(job_spec_to_proto(job)) == job
    assert job != spec(rule(0.1))


@pytest.mark.parametrize(
    "more",
    [
        {"clip": ClipGlobalNorm(1 / 3)},
        {"clip": ClipTensorNorm(1 / 3)},
        {"clip": ClipValue(1 / 3)},
        {"groups": (Group("*.b", weight_decay=0.0),)},
        {"groups": (Group("*", ndim_max=1, frozen=True), Group("*", ndim_min=2, ndim_max=32, eps=0.0))},
        {"groups": (Group("layer.[bw]", lr_multiplier=1 / 3, beta1=0.1, eps=0.0), Group("*", frozen=True))},
        {"reduction": "sum"},
    ],
)
def test_what_stands_around_a_rule_survives_the_wire(more: dict[str, Any]) -> None:
    job = spec(Adam(0.1), **more)
    assert job_spec_from_proto(job_spec_to_proto(job)) == job
    assert job != spec(Adam(0.1))


@pytest.mark.parametrize("form", ["heavy_ball", "ema", "lr_inside"])
def test_forms_survive_the_wire(form: str) -> None:
    job = spec(SGDM(0.1, form=form))
    assert job_spec_from_proto(job_spec_to_proto(job)) == job


@pytest.mark.parametrize("rule", RULES)
def test_a_group_lists_what_the_rule_has(rule: type[Optimizer]) -> None:
    with pytest.raises(InvalidSpec, match="has no numeric hyper-parameter of this name; it has ") as refused:
        spec(rule(0.1), groups=(Group("*", momentums=0.5),))
    assert refused.value.field == "groups[0].momentums"
    for known in (field for owner, field in NUMBERS if owner is rule):
        assert known in str(refused.value)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("pattern", lambda: Group("")),
        ("pattern", lambda: Group(7)),  # type: ignore[arg-type]
        ("lr_multiplier", lambda: Group("*", lr_multiplier=-1)),
        ("lr_multiplier", lambda: Group("*", lr_multiplier="2")),  # type: ignore[arg-type]
        ("frozen", lambda: Group("*", frozen=1)),  # type: ignore[arg-type]
        ("ndim_min", lambda: Group("*", ndim_min=-1)),
        ("ndim_min", lambda: Group("*", ndim_min=2, ndim_max=1)),
        ("ndim_max", lambda: Group("*", ndim_max=33)),
        ("ndim_max", lambda: Group("*", ndim_max=1.5)),  # type: ignore[arg-type]
        ("ndim_max", lambda: Group("*", ndim_max=True)),
        ("groups[0]", lambda: spec(Adam(0.1), groups=("*",))),
        ("groups[1].pattern", lambda: spec(Adam(0.1), groups=(Group("*"), Group("encoder.*")))),
        ("groups[0].pattern", lambda: spec(Adam(0.1), groups=(Group("stats"),))),
        ("groups[0].pattern", lambda: spec(Adam(0.1), groups=(Group("stat?", ndim_max=1),))),
        ("groups[0].ndim_max", lambda: spec(Adam(0.1), groups=(Group("*", ndim_max=0),))),
        ("groups[1].ndim_min", lambda: spec(Adam(0.1), groups=(Group("*"), Group("*.b", ndim_min=2)))),
        ("groups[0].beta1", lambda: spec(Adam(0.1), groups=(Group("*", beta1=1.0),))),
        ("groups[0].beta1", lambda: spec(Adam(0.1), groups=(Group("*", beta1="0.9"),))),
        ("groups[0].lr", lambda: spec(Adam(0.1), groups=(Group("*", lr=0.1),))),
        ("norm_max", lambda: ClipTensorNorm(0.0)),
        ("norm_max", lambda: ClipGlobalNorm("1")),  # type: ignore[arg-type]
        ("value", lambda: ClipValue(math.inf)),
        ("clip", lambda: spec(Adam(0.1), clip=1.0)),
        ("form", lambda: SGDM(0.1, form="heavyball")),
        ("nesterov", lambda: SGDM(0.1, form="lr_inside", nesterov=True)),
        ("dampening", lambda: SGDM(0.1, form="lr_inside", dampening=0.5)),
        ("v_init", lambda: RMSProp(0.1, v_init="g0")),
    ],
)
def test_refused_by_field(field: str, make: Any) -> None:
    with pytest.raises(InvalidSpec) as refused:
        make()
    assert refused.value.field == field
