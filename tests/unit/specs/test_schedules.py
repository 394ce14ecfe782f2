"""Schedules over 20,000 steps against their formulas, at their borders, and in any order of steps."""

from __future__ import annotations

import math

import pytest
from optimd_server.schedules import value_at
from optimdpb.specs import Constant, Cosine, Linear, Schedule, Warmup

STEPS = 20_000


def linear(t: int) -> float:
    return 0.5 + (0.01 - 0.5) * min(t, 7000) / 7000


def cosine(t: int) -> float:
    return 1e-4 + 0.5 * (0.3 - 1e-4) * (1 + math.cos(math.pi * min(t, 12_345) / 12_345))


CASES: dict[str, tuple[Schedule, object]] = {
    "constant": (Constant(0.1), lambda t: 0.1),
    "linear": (Linear(0.5, 0.01, steps=7000), linear),
    "cosine": (Cosine(0.3, 1e-4, steps=12_345), cosine),
    "warmup": (Warmup(0.2, steps=500), lambda t: 0.2 * min(1.0, (t + 1) / 500)),
    "warmup_cosine": (
        Warmup(Cosine(0.3, 1e-4, steps=12_345), steps=2000),
        lambda t: cosine(t) * min(1.0, (t + 1) / 2000),
    ),
    "warmup_warmup": (
        Warmup(Warmup(Linear(0.5, 0.01, steps=7000), steps=10), steps=20),
        lambda t: linear(t) * min(1.0, (t + 1) / 10) * min(1.0, (t + 1) / 20),
    ),
}


@pytest.mark.parametrize(("schedule", "formula"), CASES.values(), ids=CASES.keys())
def test_every_step(schedule: Schedule, formula: object) -> None:
    assert callable(formula)
    for t in range(STEPS):
        assert value_at(schedule, t) == pytest.approx(formula(t), rel=1e-12, abs=1e-15), t


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.0), {0: 0.0, 10**15: 0.0}),
        (Linear(1.0, 0.25, steps=1), {0: 1.0, 1: 0.25, 2: 0.25}),
        (Linear(0.0, 1.0, steps=4), {0: 0.0, 1: 0.25, 4: 1.0, 10**15: 1.0}),
        (Cosine(1.0, 0.0, steps=2), {0: 1.0, 1: 0.5, 2: 0.0, 3: 0.0}),
        (Cosine(0.5, 0.5, steps=3), {0: 0.5, 1: 0.5, 99: 0.5}),
        (Warmup(1.0, steps=1), {0: 1.0, 1: 1.0}),
        (Warmup(1.0, steps=4), {0: 0.25, 3: 1.0, 4: 1.0}),
    ],
)
def test_borders_are_exact(schedule: Schedule, values: dict[int, float]) -> None:
    assert {t: value_at(schedule, t) for t in values} == pytest.approx(values, rel=1e-15, abs=1e-16)


def test_the_same_step_has_the_same_value_in_any_order() -> None:
    schedule, _ = CASES["warmup_cosine"]
    forward = [value_at(schedule, t) for t in range(100)]
    assert [value_at(schedule, t) for t in reversed(range(100))] == forward[::-1]
