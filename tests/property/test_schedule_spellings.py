"""One spelling everywhere: dataclass, text, message and JSON turn into each other; and nothing else is a schedule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimdpb import codec, specs
from optimdpb.errors import InvalidSpec
from optimdpb.specs import (
    SGDR,
    AdamW,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
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
from optimdpb.specs.text import CLASS_OF_NAME, schedule_from_text, schedule_to_text
from optimdpb.v1 import optimd_pb2 as pb

RATES = st.floats(0.0, 1e38)
STEPS = st.integers(1, 2**40)
FACTORS = st.floats(0.0, 1.0, exclude_min=True)
SHARES = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
LIMITS = st.tuples(RATES, RATES).map(sorted)
RISING = st.lists(st.integers(0, 2**53), min_size=1, max_size=5, unique=True).map(sorted)


def cyclical(limits: list[float], size: int, policy: str, gamma: float) -> Schedule:
    return Cyclical(*limits, size, policy, gamma if policy == "exp_range" else 1.0)


SIMPLE = st.one_of(
    st.builds(Constant, RATES),
    st.builds(Linear, RATES, RATES, STEPS),
    st.builds(Polynomial, RATES, RATES, STEPS, st.floats(1e-3, 1e3)),
    st.builds(Step, RATES, STEPS, FACTORS),
    st.builds(MultiStep, st.floats(0.0, 1.0), RISING, st.floats(1e-3, 1e3)),
    st.builds(Exponential, RATES, FACTORS),
    st.builds(InverseSqrt, RATES, STEPS),
    st.builds(lambda limits, steps: Cosine(limits[1], limits[0], steps), LIMITS, STEPS),
    st.builds(lambda limits, *rest: SGDR(limits[1], limits[0], *rest), LIMITS, STEPS, st.integers(1, 2**53), FACTORS),
    st.builds(cyclical, LIMITS, STEPS, st.sampled_from(["triangular", "triangular2", "exp_range"]), FACTORS),
    st.builds(
        lambda *fields: OneCycle(*fields[:5], *sorted(fields[5:])),
        RATES,
        STEPS,
        SHARES,
        st.floats(1, 1e6),
        st.floats(1, 1e6),
        SHARES,
        SHARES,
    ),
    st.builds(WarmupStableDecay, RATES, st.integers(0, 2**40), st.integers(0, 2**40), STEPS, RATES),
    st.builds(
        lambda steps, values, how: Table(list(zip(steps, values, strict=False)), how),
        RISING,
        st.lists(RATES, min_size=5, max_size=5),
        st.sampled_from(["linear", "constant"]),
    ),
)
PLATEAUS = st.builds(
    lambda limits, *rest: Plateau(limits[1], *rest, lr_min=limits[0]),
    LIMITS,
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**53),
    RATES,
    st.integers(0, 2**53),
)
SCHEDULES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.builds(Warmup, inner, STEPS) | st.builds(Sequence, st.lists(st.tuples(STEPS, inner), min_size=1, max_size=4))
    ),
    max_leaves=6,
).filter(lambda schedule: schedule.depth() <= 8)


@settings(max_examples=300, deadline=None)
@given(SCHEDULES | PLATEAUS)
def test_every_spelling_is_the_same_schedule(schedule: Schedule) -> None:
    text = schedule_to_text(schedule)
    assert schedule_from_text(text) == schedule
    assert schedule_to_text(schedule_from_text(text)) == text
    message = codec.schedule_to_proto(schedule)
    assert codec.schedule_from_proto(pb.Schedule.FromString(message.SerializeToString())) == schedule
    assert codec.schedule_from_json(json.loads(json.dumps(codec.schedule_to_json(schedule)))) == schedule
    assert schedule == eval(repr(schedule), vars(specs))  # Python itself


@settings(max_examples=60, deadline=None)
@given(SCHEDULES, SCHEDULES)
def test_so_is_a_rule_with_schedules(lr: Schedule, decay: Schedule) -> None:
    rule = AdamW(lr, schedules={"weight_decay": decay, "beta1": 0.5})
    message = codec.optimizer_to_proto(rule)
    assert codec.optimizer_from_proto(pb.Optimizer.FromString(message.SerializeToString())) == rule


def test_every_kind_has_its_word() -> None:
    kinds = pb.Schedule.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert {field.name: field.message_type.name for field in kinds} == {
        name: schedule.__name__ for name, schedule in CLASS_OF_NAME.items()
    }


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("0.1", Constant(0.1)),
        (" 1 ", Constant(1.0)),
        ("cosine(1e-3, 0, steps=10)", Cosine(1e-3, 0.0, 10)),
        ("SGDR(0.1, 0.01, 5)", SGDR(0.1, 0.01, 5)),
        ("cyclical(0, 1, 5, 'triangular2')", Cyclical(0, 1, 5, "triangular2")),
        ("warmup(0.1, 5)", Warmup(0.1, 5)),
        ("sequence([(5, 0.1), (5, linear(0.1, 0, 5))])", Sequence([(5, 0.1), (5, Linear(0.1, 0, 5))])),
        ("table([[0, 1], [5, 2]])", Table([(0, 1), (5, 2)])),
        ("multi_step(1, (5,), 0.5)", MultiStep(1, [5], 0.5)),
    ],
)
def test_people_write_it_shorter(text: str, schedule: Schedule) -> None:
    assert schedule_from_text(text) == schedule


GARBAGE = [
    "",
    " ",
    "linear",
    "linear(",
    "linear()",
    "linear(1, 2)",
    "linear(1, 2, 3, 4)",
    "linear(1, 2, 3, steps=3)",
    "linear(1, 2, 3, lr=3)",
    "linear(*[1, 2, 3])",
    "linear(**{})",
    "constant(True)",
    "constant(None)",
    "constant('0.1')",
    "constant(b'x')",
    "constant(1j)",
    "constant(2**53)",
    "constant(1 + 1)",
    "constant(nan)",
    "constant(1e999)",
    "constant(-0.1)",
    "constant(lr)",
    "constant(lambda: 1)",
    "constant([x for x in (1,)])",
    "constant(f'{1}')",
    "constant(...)",
    "constant.lr",
    "constant(0.1).lr",
    "(constant)(0.1) if 1 else 2",
    "__import__('os').system('true')",
    "open('x')",
    "exec('1')",
    "specs.Constant(0.1)",
    "0.1; 0.2",
    "x = 1",
    "import os",
    "'0.1'",
    "[0.1]",
    "None",
    "(" * 10_000 + "1" + ")" * 10_000,
    "-" * 10_000 + "1",
    "warmup(" * 5_000 + "1" + ", 2)" * 5_000,
    "\x00",
    "constant(1" + "0" * 5_000 + ")",
    "warmup(" * 8 + "0.1" + ", 2)" * 8,
    "x" * 2_000_000,
]


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: text[:30] or "nothing")
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        schedule_from_text(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="()[],=.'-_ 0123456789abcdeilmnorstuwpx", max_size=60))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    try:
        schedule = schedule_from_text(text)
    except InvalidSpec:
        return
    assert schedule_from_text(schedule_to_text(schedule)) == schedule


@pytest.mark.parametrize(
    "plain",
    [
        None,
        5,
        "sgdr",
        [],
        {"sgdr": 5},
        {"nothing": {}},
        {"constant": {"lr": "x"}},
        {"constant": {"rate": 1}},
        {},
        {"linear": {"steps": 1.5}},
    ],
    ids=str,
)
def test_json_that_is_no_schedule_is_refused(plain: Any) -> None:
    with pytest.raises(InvalidSpec):
        codec.schedule_from_json(plain)
