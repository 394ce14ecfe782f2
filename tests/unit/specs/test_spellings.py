"""Settings under the names of torch: taken where they mean the same, else refused by name with what to do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optimdpb import specs
from optimdpb.errors import InvalidSpec
from optimdpb.specs import Optimizer, Schedule
from optimdpb.specs.spellings import NOT_HERE

DOCS = Path(__file__).parents[3] / "docs" / "optimizers.md"
CLASSES = [value for value in vars(specs).values() if isinstance(value, type)]
RULES = [rule for rule in CLASSES if issubclass(rule, Optimizer) and rule is not Optimizer]
WITH_BETAS = [rule for rule in RULES if "beta1" in {field.name for field in dataclasses.fields(rule)}]


@pytest.mark.parametrize("rule", WITH_BETAS)
@pytest.mark.parametrize("pair", [(0.8, 0.95), [0.8, 0.95]])
def test_betas_are_beta1_and_beta2(rule: Any, pair: Any) -> None:
    assert rule(0.1, betas=pair) == rule(lr=0.1, beta1=0.8, beta2=0.95)


@pytest.mark.parametrize("pair", [0.9, (0.9,), (0.9, 0.99, 0.999), "ab", None])
def test_betas_are_two(pair: Any) -> None:
    if pair == "ab":
        pair = ("a", "b")
    with pytest.raises(InvalidSpec, match="expected"):
        specs.Adam(0.1, betas=pair)  # type: ignore[call-arg]


def test_betas_and_beta1_are_one_too_many() -> None:
    with pytest.raises(InvalidSpec, match="betas: expected betas or beta1, got both"):
        specs.Adam(0.1, betas=(0.9, 0.99), beta1=0.9)  # type: ignore[call-arg]


def test_a_wrong_beta_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"beta2: expected a number from 0 to below 1, got 1\.5"):
        specs.AdamW(0.1, betas=(0.9, 1.5))  # type: ignore[call-arg]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (specs.RMSProp, {"weight_decay": 0.1}, r"RMSProp has no such setting: this rule has none\. Take AdamW"),
    (specs.NAdam, {"weight_decay": 0.1}, "add weight_decay . parameter to the gradient"),
    (specs.NAdam, {"decoupled_weight_decay": True}, "of the decoupled kind are AdamW"),
    (specs.Adamax, {"weight_decay": 0.1}, "Adamax has no such setting"),
    (specs.RAdam, {"weight_decay": 0.1}, "RAdam has no such setting"),
    (specs.Adadelta, {"weight_decay": 0.1}, "Adadelta has no such setting"),
    (specs.Adagrad, {"lr_decay": 0.1}, "give lr a schedule"),
    (specs.Adagrad, {"initial_accumulator_value": 0.1}, "it is called initial_accumulator here"),
    (specs.Adam, {"amsgrad": True}, "a rule of its own: AMSGrad"),
    (specs.AdamW, {"maximize": True}, "Push the gradient with its sign changed"),
    (specs.Adam, {"foreach": True}, "the server has one, fused"),
    (specs.Adam, {"fused": True}, "the server has one, fused"),
    (specs.Adam, {"capturable": True}, "the server has one, fused"),
    (specs.Adam, {"differentiable": True}, "without a graph"),
    (specs.SGD, {"momentum": 0.9}, r"SGDM\(lr, momentum=...\)"),
    (specs.SGD, {"betas": (0.9, 0.99)}, "betas: SGD has no such setting"),
    (specs.Adam, {"params": []}, r"given to ensure_job\(\)"),
    (specs.Adam, {"lookahead": 0.1}, "Adam has no such setting: it has lr, schedules, beta1"),
    (specs.Adam, {"learning_rate": 0.1}, "it is called lr here"),
    (specs.Adam, {"epsilon": 1e-7}, "it is called eps here"),
    (specs.Adam, {"beta_1": 0.8}, "it is called beta1 here"),
    (specs.AdamW, {"b2": 0.8}, "it is called beta2 here"),
    (specs.RMSProp, {"rho": 0.8}, "it is called alpha here"),
    (specs.SGD, {"b1": 0.8}, "SGD has no such setting: it has lr, schedules"),
    (specs.SGD, {"max_norm": 1.0}, r"give ensure_job\(\) a clip="),
    (specs.Adam, {"clipnorm": 1.0}, r"such as ClipGlobalNorm\(1\.0\)"),
]
SCHEDULES: list[tuple[Any, dict[str, Any], str]] = [
    (specs.Cyclical, {"lr_min": 0.1, "lr_max": 1, "step_size": 5, "cycle_momentum": True}, "only lr cycles"),
    (specs.Cyclical, {"lr_min": 0.1, "lr_max": 1, "step_size": 5, "step_size_down": 7}, "both halves take step_size"),
    (specs.Cyclical, {"base_lr": 0.1, "max_lr": 1, "step_size_up": 5}, "it is called lr_min here"),
    (specs.Plateau, {"lr": 0.1, "mode": "max"}, "Push what is to rise with its sign changed"),
    (specs.Plateau, {"lr": 0.1, "eps": 1e-8}, "every reduction is made"),
    (specs.Plateau, {"lr": 0.1, "threshold_mode": "abs"}, "a share of the best loss"),
    (specs.Plateau, {"lr": 0.1, "min_lr": 1e-3}, "it is called lr_min here"),
    (specs.OneCycle, {"max_lr": 0.1, "total_steps": 100}, "it is called lr_max here"),
    (specs.OneCycle, {"lr_max": 0.1, "steps": 100, "anneal_strategy": "linear"}, "it is a cosine"),
    (specs.SGDR, {"lr_max": 0.1, "lr_min": 0, "T_0": 10}, "it is called period here"),
    (specs.Cosine, {"lr_max": 0.1, "lr_min": 0, "T_max": 10}, "it is called steps here"),
]


@pytest.mark.parametrize(("spec", "settings", "says"), [*((r, {"lr": 0.1, **s}, t) for r, s, t in REFUSED), *SCHEDULES])
def test_what_there_is_not_is_refused_by_name(spec: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec, match=says) as refused:
        spec(**settings)
    assert refused.value.field in settings
    assert refused.value.reason == "INVALID_SPEC"


NEUTRAL: list[tuple[Schedule | Optimizer, Any, dict[str, Any]]] = [
    (specs.Adam(0.1), specs.Adam, {"lr": 0.1, "amsgrad": False, "maximize": False, "foreach": None, "fused": None}),
    (specs.RMSProp(0.1), specs.RMSProp, {"lr": 0.1, "weight_decay": 0, "capturable": False, "differentiable": False}),
    (specs.SGD(0.1), specs.SGD, {"lr": 0.1, "momentum": 0, "dampening": 0.0, "nesterov": False}),
    (specs.Plateau(0.1), specs.Plateau, {"lr": 0.1, "mode": "min", "threshold_mode": "rel", "eps": 0}),
    (specs.Cyclical(0.1, 1, 5), specs.Cyclical, {"lr_min": 0.1, "lr_max": 1, "step_size": 5, "cycle_momentum": False}),
]


@pytest.mark.parametrize(("expected", "spec", "settings"), NEUTRAL)
def test_what_means_the_same_is_left_out(expected: object, spec: Any, settings: dict[str, Any]) -> None:
    assert spec(**settings) == expected


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_without_a_rate_says_so(rule: Any) -> None:
    with pytest.raises(InvalidSpec, match=rf"lr: expected a value for it, got none: {rule.__name__}\(lr\)"):
        rule()


@pytest.mark.parametrize("parameters", [["w"], (), iter("w"), (each for each in "w")])
@pytest.mark.parametrize("settings", [{}, {"lr": 0.1}])
def test_parameters_in_front_of_the_rate_are_told_from_it(parameters: Any, settings: dict[str, Any]) -> None:
    says = r"lr: expected a number or a schedule, got .*: parameters are given to ensure_job\(\)"
    with pytest.raises(InvalidSpec, match=says):
        specs.Adam(parameters, **settings)


def test_a_rate_given_twice_is_told() -> None:
    with pytest.raises(InvalidSpec, match=r"lr: expected it once, got 0\.2 and 0\.1"):
        specs.Adam(0.2, lr=0.1)  # type: ignore[misc]


@pytest.mark.parametrize("rate", [np.array([0.1]), np.array(0.1), Decimal("0.1")])
def test_a_rate_that_is_nearly_a_number_says_how_to_make_it_one(rate: Any) -> None:
    with pytest.raises(InvalidSpec, match=r"expected a number or a schedule, got .*: pass float\(it\)"):
        specs.SGD(rate)
    assert specs.SGD(float(rate.item() if hasattr(rate, "item") else rate)) == specs.SGD(0.1)


def test_a_rule_can_be_copied_and_shows_its_signature() -> None:
    rule = specs.Adam(0.1, betas=(0.8, 0.9), schedules={"weight_decay": 0.1})  # type: ignore[call-arg]
    assert copy.deepcopy(rule) == pickle.loads(pickle.dumps(rule)) == dataclasses.replace(rule) == rule
    assert list(inspect.signature(specs.Adam).parameters)[:3] == ["lr", "beta1", "beta2"]


@pytest.mark.parametrize("name", NOT_HERE)
def test_the_documentation_lists_it(name: str) -> None:
    assert re.search(rf"`[^`]*\b{name.rpartition('.')[2]}\b[^`]*`", DOCS.read_text())
