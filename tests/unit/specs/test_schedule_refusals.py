"""Schedules that cannot be: each refused with the field's path and what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from optimdpb.codec import schedule_from_spelling
from optimdpb.errors import InvalidSpec
from optimdpb.specs import (
    SGD,
    SGDM,
    SGDR,
    Adam,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    Group,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    Sequence,
    Step,
    Table,
    Warmup,
    WarmupStableDecay,
)
from optimdpb.specs.checks import STEPS_MAX


def nested(depth: int) -> Schedule:
    schedule: Schedule = Constant(0.1)
    for place in range(depth - 1):
        schedule = Warmup(schedule, 2) if place % 2 else Sequence([(5, schedule)])
    return schedule


REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "period 0": (lambda: SGDR(0.1, 0.0, 0), "period", "from 1 to"),
    "negative period": (lambda: SGDR(0.1, 0.0, -5), "period", "got -5"),
    "period of half a step": (lambda: SGDR(0.1, 0.0, 2.5), "period", "an integer"),  # type: ignore[arg-type]
    "period that shrinks": (lambda: SGDR(0.1, 0.0, 5, 0), "period_mult", "from 1 to"),
    "decay 0": (lambda: SGDR(0.1, 0.0, 5, 1, 0.0), "decay", "above 0"),
    "decay that grows": (lambda: SGDR(0.1, 0.0, 5, 1, 1.5), "decay", "from 0 to 1"),
    "sgdr upside down": (lambda: SGDR(0.1, 0.2, 5), "lr_max", "at least lr_min = 0.2, got 0.1"),
    "cosine upside down": (lambda: Cosine(0.1, 0.2, 5), "lr_max", "at least lr_min"),
    "triangles upside down": (lambda: Cyclical(0.2, 0.1, 5), "lr_max", "at least lr_min"),
    "negative steps": (lambda: Linear(0.1, 0.2, -1), "steps", "got -1"),
    "true steps": (lambda: Linear(0.1, 0.2, True), "steps", "an integer, got True"),
    "steps above 2^53": (lambda: Linear(0.1, 0.2, STEPS_MAX + 1), "steps", f"to {STEPS_MAX}"),
    "negative rate": (lambda: Constant(-0.1), "lr", ">= 0"),
    "NaN": (lambda: Constant(math.nan), "lr", "finite"),
    "infinity": (lambda: Linear(0.1, math.inf, 5), "lr_end", "finite"),
    "a word": (lambda: Constant("0.1"), "lr", "a number, got '0.1'"),  # type: ignore[arg-type]
    "a flag": (lambda: Constant(True), "lr", "a number, got True"),
    "power 0": (lambda: Polynomial(0.1, 0.2, 5, 0.0), "power", "above 0"),
    "gamma above 1": (lambda: Exponential(0.1, 1.0001), "gamma", "from 0 to 1"),
    "gamma 0": (lambda: Step(0.1, 5, 0.0), "gamma", "above 0"),
    "step_size 0": (lambda: Step(0.1, 0, 0.5), "step_size", "from 1"),
    "no milestones": (lambda: MultiStep(0.1, [], 0.5), "milestones", "1 to 10000 entries, got 0"),
    "milestones that fall": (lambda: MultiStep(0.1, [5, 4], 0.5), "milestones[1]", "above the one before it, 5"),
    "milestone twice": (lambda: MultiStep(0.1, [5, 5], 0.5), "milestones[1]", "got 5"),
    "milestone -1": (lambda: MultiStep(0.1, [-1], 0.5), "milestones[0]", "at least 0"),
    "milestone 1.5": (lambda: MultiStep(0.1, [1.5], 0.5), "milestones[0]", "an integer"),  # type: ignore[list-item]
    "milestones in a word": (lambda: MultiStep(0.1, "12", 0.5), "milestones", "a list"),  # type: ignore[arg-type]
    "milestones beyond all": (lambda: MultiStep(0.1, range(10_001), 0.5), "milestones", "got 10001"),
    "rates beyond all": (lambda: MultiStep(0.1, range(200), 1e10), "gamma", "finite"),
    "warm-up of no steps": (lambda: InverseSqrt(0.1, 0), "warmup_steps", "from 1"),
    "gamma of triangles": (lambda: Cyclical(0.1, 0.2, 5, gamma=0.9), "gamma", 'with policy="triangular"'),
    "exp_range that grows": (lambda: Cyclical(0.1, 0.2, 5, "exp_range", 1.1), "gamma", "from 0 to 1"),
    "policy": (lambda: Cyclical(0.1, 0.2, 5, "square"), "policy", "one of triangular, triangular2, exp_range"),
    "one cycle of nothing": (lambda: OneCycle(0.1, 0), "steps", "from 1"),
    "no rise": (lambda: OneCycle(0.1, 5, pct_start=0.0), "pct_start", "above 0"),
    "all rise": (lambda: OneCycle(0.1, 5, pct_start=1.0), "pct_start", "below 1"),
    "div_factor": (lambda: OneCycle(0.1, 5, div_factor=0.5), "div_factor", ">= 1"),
    "final_div_factor": (lambda: OneCycle(0.1, 5, final_div_factor=0.0), "final_div_factor", ">= 1"),
    "momentum 1": (lambda: OneCycle(0.1, 5, momentum_max=1.0), "momentum_max", "below 1"),
    "momentum upside down": (lambda: OneCycle(0.1, 5, momentum_min=0.99), "momentum_max", "momentum_min = 0.99"),
    "no fall": (lambda: WarmupStableDecay(0.1, 5, 5, 0), "decay_steps", "from 1"),
    "negative plateau": (lambda: WarmupStableDecay(0.1, 5, -1, 5), "stable_steps", "from 0"),
    "wsd of too many steps": (lambda: WarmupStableDecay(0.1, STEPS_MAX, 1, 1), "decay_steps", "2^53"),
    "warm-up of a word": (lambda: Warmup("0.1", 5), "schedule", "a schedule"),  # type: ignore[arg-type]
    "warm-up of less than nothing": (lambda: Warmup(-0.1, 5), "schedule", ">= 0"),
    "empty sequence": (lambda: Sequence([]), "parts", "got 0"),
    "a part of three": (lambda: Sequence([(5, 0.1, 0.2)]), "parts[0]", "(steps, schedule)"),  # type: ignore[list-item]
    "a part of no steps": (lambda: Sequence([(5, 0.1), (0, 0.1)]), "parts[1].steps", "from 1"),
    "a part of a word": (lambda: Sequence([(5, "x")]), "parts[0].schedule", "a schedule"),  # type: ignore[list-item]
    "sequence of too many steps": (lambda: Sequence([(STEPS_MAX, 0.1), (1, 0.1)]), "parts", "2^53"),
    "empty table": (lambda: Table([]), "points", "got 0"),
    "table out of order": (lambda: Table([(5, 0.1), (4, 0.1)]), "points[1]", "above the one before it, 5"),
    "table with a step twice": (lambda: Table([(5, 0.1), (5, 0.2)]), "points[1]", "got 5"),
    "table before the start": (lambda: Table([(-1, 0.1)]), "points[0]", "at least 0"),
    "table beyond 2^53": (lambda: Table([(STEPS_MAX + 1, 0.1)]), "points[0]", "2^53"),
    "table of NaN": (lambda: Table([(0, math.nan)]), "points[0].value", "finite"),
    "table of schedules": (lambda: Table([(0, Linear(0, 1, 5))]), "points", "numbers"),  # type: ignore[list-item]
    "table of numbers": (lambda: Table([1, 2]), "points[0]", "(step, value)"),  # type: ignore[list-item]
    "interpolation": (lambda: Table([(0, 0.1)], "cubic"), "interpolation", "linear, constant"),
    "factor 1": (lambda: Plateau(0.1, factor=1.0), "factor", "below 1"),
    "negative patience": (lambda: Plateau(0.1, patience=-1), "patience", "from 0"),
    "negative threshold": (lambda: Plateau(0.1, threshold=-0.1), "threshold", ">= 0"),
    "plateau upside down": (lambda: Plateau(0.1, lr_min=0.2), "lr_min", "at most lr = 0.1"),
    "many entries in many lists": (
        lambda: Sequence([(5, Table([(i, 0.1) for i in range(6000)])) for _ in range(2)]),
        "parts",
        "at most 10000 entries in all, got 12002",
    ),
    "nine deep": (lambda: nested(9), "schedule", "at most 8 nested schedules, got 9"),
    "two plateaus": (lambda: SGD(Sequence([(5, Plateau(0.1)), (5, Plateau(0.1))])), "lr", "at most one plateau"),
    "schedule of another rule": (lambda: SGD(0.1, schedules={"beta1": 0.5}), "schedules.beta1", "weight_decay"),
    "schedule of lr": (lambda: SGD(0.1, schedules={"lr": 0.5}), "schedules.lr", "weight_decay"),
    "schedule of a flag": (lambda: SGDM(0.1, schedules={"nesterov": 1.0}), "schedules.nesterov", "expected one of"),
    "schedule that leaves the range": (
        lambda: SGDM(0.1, schedules={"momentum": Linear(0.9, 1.0, 9)}),
        "schedules.momentum",
        "below 1",
    ),
    "schedule that another field forbids": (
        lambda: SGDM(0.1, nesterov=True, schedules={"momentum": Linear(0.9, 0.0, 9)}),
        "nesterov",
        "momentum above 0",
    ),
    "plateau of a hyper-parameter": (
        lambda: Adam(0.1, schedules={"beta1": Plateau(0.5)}),
        "schedules.beta1",
        "no plateau",
    ),
    "schedules in a word": (lambda: Adam(0.1, schedules="beta1"), "schedules", "by hyper-parameter"),  # type: ignore[arg-type]
    "a one-cycle that the rule forbids": (
        lambda: SGDM(OneCycle(0.1, 5, momentum_min=0.0), nesterov=True),
        "nesterov",
        "momentum above 0",
    ),
}


@pytest.mark.parametrize(("make", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused(make: Callable[[], object], field: str, words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        make()
    assert refused.value.field == field
    assert words in str(refused.value)


HUGE = 10**400
LONG = 10**5000  # Python writes no integer of more than 4,300 digits


@pytest.mark.parametrize("number", [HUGE, LONG, Fraction(HUGE), -LONG], ids=["huge", "long", "fraction", "negative"])
@pytest.mark.parametrize(
    "make",
    [
        Constant,
        SGD,
        lambda n: Linear(0.1, n, 5),
        lambda n: Linear(0.1, 0.2, n),
        lambda n: MultiStep(0.1, [n], 0.5),
        lambda n: Sequence([(n, 0.1)]),
        lambda n: Sequence([(5, n)]),
        lambda n: Table([(0, n)]),
        lambda n: Table([(n, 0.1)]),
        lambda n: Warmup(n, 5),
        lambda n: SGDM(0.1, schedules={"momentum": n}),
        lambda n: Group("*", lr_multiplier=n),
        Sequence,
    ],
)
def test_numbers_beyond_what_a_float_holds_are_refused(make: Callable[[object], object], number: object) -> None:
    with pytest.raises(InvalidSpec):
        make(number)


@pytest.mark.parametrize(
    "text",
    [
        "1" + "0" * 400,
        "constant(1" + "0" * 400 + ")",
        "1" * 5000,
        "constant(0x" + "f" * 9000 + ")",
        "linear(0.1, 0.2, 0x" + "f" * 9000 + ")",
        "-0x" + "f" * 9000,
        "0x" + "f" * 9000 + " + 1",
        "sequence([(0x" + "f" * 9000 + ", 0.1)])",
        "not " * 100_000 + "1",
        "{" + '"a":{' * 100_000,
        '{"constant": {"lr": ' + "[" * 100_000,
        '{"constant": {"lr": ' + "[" * 900 + "]" * 900 + "}}",
        '{"sequence": {"parts": ' + '[{"schedule": {"sequence": {"parts": ' * 200 + "[]" + "}}}]" * 200 + "}}",
        '{"constant": {"lr": 1' + "0" * 400 + "}}",
        '{"constant": {"lr": ' + "1" * 5000 + "}}",
        '{"step": {"lr": 1, "step_size": 1' + "0" * 400 + ', "gamma": 0.5}}',
        '{"constant": {"lr": 1e400}}',
    ],
    ids=lambda text: text[:24],
)
def test_texts_against_the_grain_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        schedule_from_spelling(text)


def test_what_is_just_possible() -> None:
    assert nested(8).depth() == 8
    assert Sequence([(STEPS_MAX - 1, 0.1), (1, 0.1)]).starts[-1] == STEPS_MAX
    assert len(Table([(i, 0.1) for i in range(10_000)]).points) == 10_000
    assert SGDR(0.1, 0.1, STEPS_MAX, STEPS_MAX).bounds() == (0.1, 0.1)
    assert WarmupStableDecay(0.1, 0, 0, 1).bounds() == (0.0, 0.1)
    assert MultiStep(0.1, range(10_000), 1.0).bounds() == (0.1, 0.1)


def test_numbers_of_numpy_become_python_s() -> None:
    made = MultiStep(np.float32(0.5), np.array([1, 2]), np.float64(0.5))  # type: ignore[arg-type]
    assert made == MultiStep(0.5, (1, 2), 0.5)
    assert [type(step) for step in made.milestones] == [int, int]
    assert Table([(np.int64(1), np.float32(0.5))]) == Table([(1, 0.5)])  # type: ignore[list-item]
    assert Sequence([(np.int64(5), np.float64(0.5))]) == Sequence([(5, 0.5)])  # type: ignore[list-item]


def test_a_group_keeps_what_it_sets_itself() -> None:
    base = SGDM(0.1, schedules={"momentum": Linear(0.5, 0.9, 9), "weight_decay": 0.1})
    own = Group("*", momentum=0.3).optimizer(base)
    assert own == SGDM(0.1, momentum=0.3, schedules={"weight_decay": 0.1})
