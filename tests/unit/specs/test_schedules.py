"""Every schedule over 20,000 steps against a transcription of its paper, at its borders, far out, and in any order."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable

import pytest
from optimd_server.schedules import PlateauState, momentum_of, rate_of, value_at
from optimdpb import specs
from optimdpb.specs import (
    SGDR,
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
from optimdpb.specs.checks import STEPS_MAX

STEPS = 20_000
Formula = Callable[[int], float]


def linear(t: int) -> float:
    return (0.5 * (7000 - min(t, 7000)) + 0.01 * min(t, 7000)) / 7000


def cosine(t: int) -> float:
    return 1e-4 + 0.5 * (0.3 - 1e-4) * (1 + math.cos(math.pi * min(t, 12_345) / 12_345))


def sgdr(lr_max: float, lr_min: float, period: int, mult: int, decay: float) -> Formula:
    """Loshchilov and Hutter, equation 5, with T_cur counted in steps; both limits change from run to run."""

    def formula(t: int) -> float:
        t_cur, t_i, factor = t, period, 1.0
        while t_cur >= t_i:
            t_cur, t_i, factor = t_cur - t_i, t_i * mult, factor * decay
        low, high = factor * lr_min, factor * lr_max
        return low + 0.5 * (high - low) * (1 + math.cos(math.pi * t_cur / t_i))

    return formula


def clr(base: float, top: float, size: int, scale: Callable[[int, float], float]) -> Formula:
    """Smith 2017, section 3.1; scale(t, cycle) is what distinguishes the policies."""

    def formula(t: int) -> float:
        cycle = math.floor(1 + t / (2 * size))
        x = abs(t / size - 2 * cycle + 1)
        return base + (top - base) * max(0.0, 1 - x) * scale(t, cycle)

    return formula


def annealed(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def one_cycle(first: float, top: float, last: float, steps: int, rise: float) -> Formula:
    def formula(t: int) -> float:
        peak, end = rise * steps - 1, steps - 1
        if t <= peak:
            return annealed(first, top, t / peak)
        return annealed(top, last, min((t - peak) / (end - peak), 1.0))

    return formula


def wsd(t: int) -> float:
    if t < 1000:
        return 0.3 * (t + 1) / 1000
    if t < 9000:
        return 0.3
    return 0.3 + (0.003 - 0.3) * min(t - 9000, 4000) / 4000


def table(t: int) -> float:
    points = [(10, 0.5), (100, 0.1), (5000, 0.3), (15_000, 0.0)]
    if t <= 10:
        return 0.5
    for (start, value), (stop, after) in itertools.pairwise(points):
        if t < stop:
            return (value * (stop - t) + after * (t - start)) / (stop - start)
    return 0.0


def staircase(t: int) -> float:
    return 0.5 if t < 100 else 0.1 if t < 5000 else 0.3


def sequence(t: int) -> float:
    if t < 500:
        return 0.2 * (t + 1) / 500
    if t < 10_500:
        return cosine(t - 500)
    return 0.05 * 0.9999 ** (t - 10_500)


TRIANGLE = (0.001, 0.006, 2000)
CASES: dict[str, tuple[Schedule, Formula]] = {
    "constant": (Constant(0.1), lambda t: 0.1),
    "linear": (Linear(0.5, 0.01, steps=7000), linear),
    "polynomial": (Polynomial(0.5, 0.01, 7000, 2.5), lambda t: 0.01 + 0.49 * (1 - min(t, 7000) / 7000) ** 2.5),
    "step": (Step(0.1, 3000, 0.3), lambda t: 0.1 * 0.3 ** math.floor(t / 3000)),
    "multi_step": (
        MultiStep(0.1, [100, 101, 9000], 0.5),
        lambda t: 0.1 * 0.5 ** sum(t >= milestone for milestone in (100, 101, 9000)),
    ),
    "exponential": (Exponential(0.1, 0.9995), lambda t: 0.1 * 0.9995**t),
    "noam": (
        InverseSqrt(512**-0.5 * 4000**-0.5, 4000),  # Vaswani et al., equation 3, with steps counted from 1
        lambda t: 512**-0.5 * min((t + 1) ** -0.5, (t + 1) * 4000**-1.5),
    ),
    "cosine": (Cosine(0.3, 1e-4, steps=12_345), cosine),
    "sgdr": (SGDR(0.1, 1e-3, 777), sgdr(0.1, 1e-3, 777, 1, 1.0)),
    "sgdr_doubling": (SGDR(0.1, 1e-3, 10, 2), sgdr(0.1, 1e-3, 10, 2, 1.0)),
    "sgdr_decaying": (SGDR(0.1, 1e-3, 100, 3, 0.5), sgdr(0.1, 1e-3, 100, 3, 0.5)),
    "triangular": (Cyclical(*TRIANGLE), clr(*TRIANGLE, lambda t, cycle: 1.0)),
    "triangular2": (Cyclical(*TRIANGLE, "triangular2"), clr(*TRIANGLE, lambda t, cycle: 1 / 2 ** (cycle - 1))),
    "exp_range": (Cyclical(*TRIANGLE, "exp_range", 0.99994), clr(*TRIANGLE, lambda t, cycle: 0.99994**t)),
    "one_cycle": (OneCycle(0.5, 15_000), one_cycle(0.02, 0.5, 2e-6, 15_000, 0.3)),
    "one_cycle_odd": (OneCycle(0.5, 777, 0.123, 10.0, 7.0), one_cycle(0.05, 0.5, 0.05 / 7, 777, 0.123)),
    "wsd": (WarmupStableDecay(0.3, 1000, 8000, 4000, 0.003), wsd),
    "warmup": (Warmup(0.2, steps=500), lambda t: 0.2 * min(1.0, (t + 1) / 500)),
    "warmup_cosine": (
        Warmup(cosine_spec := Cosine(0.3, 1e-4, 12_345), 2000),
        lambda t: cosine(t) * min(1, (t + 1) / 2000),
    ),
    "warmup_warmup": (
        Warmup(Warmup(Linear(0.5, 0.01, steps=7000), steps=10), steps=20),
        lambda t: linear(t) * min(1.0, (t + 1) / 10) * min(1.0, (t + 1) / 20),
    ),
    "sequence": (Sequence([(500, Warmup(0.2, 500)), (10_000, cosine_spec), (1, Exponential(0.05, 0.9999))]), sequence),
    "table": (Table([(10, 0.5), (100, 0.1), (5000, 0.3), (15_000, 0.0)]), table),
    "staircase": (Table([(10, 0.5), (100, 0.1), (5000, 0.3)], "constant"), staircase),
    "plateau": (Plateau(0.1), lambda t: 0.1),  # before any loss
}


def test_every_class_is_here() -> None:
    classes = {value for value in vars(specs).values() if isinstance(value, type) and issubclass(value, Schedule)}
    assert classes - {Schedule} == {type(schedule) for schedule, _ in CASES.values()}


@pytest.mark.parametrize(("schedule", "formula"), CASES.values(), ids=CASES.keys())
def test_every_step(schedule: Schedule, formula: Formula) -> None:
    rate, (low, high) = rate_of(schedule), schedule.bounds()
    for t in range(STEPS):
        value = rate(t)
        assert value == pytest.approx(formula(t), rel=1e-12, abs=1e-18), t
        assert low * (1 - 1e-15) <= value <= high * (1 + 1e-15), t


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in CASES.values()], ids=CASES)
def test_any_order_and_far_out(schedule: Schedule) -> None:
    rate = rate_of(schedule)
    forward = [rate(t) for t in range(3000)]
    steps = list(range(3000))
    random.Random(0).shuffle(steps)
    assert [rate(t) for t in steps] == [forward[t] for t in steps]
    assert [value_at(schedule, t) for t in (0, 1, 2999)] == [forward[0], forward[1], forward[2999]]
    started_s = time.perf_counter()
    for t in (10**9, 10**15, STEPS_MAX - 1, STEPS_MAX):
        assert 0.0 <= rate(t) < math.inf
    assert time.perf_counter() - started_s < 1.0  # nothing counts up to t


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.0), {0: 0.0, 10**15: 0.0}),
        (Linear(1.0, 0.25, steps=1), {0: 1.0, 1: 0.25, 2: 0.25}),
        (Linear(0.0, 1.0, steps=4), {0: 0.0, 1: 0.25, 4: 1.0, 10**15: 1.0}),
        (Polynomial(1.0, 0.0, 4, 2.0), {0: 1.0, 1: 0.5625, 2: 0.25, 4: 0.0, 5: 0.0}),
        (Polynomial(0.0, 1.0, 2, 3.0), {0: 0.0, 1: 0.875, 2: 1.0}),
        (Step(1.0, 3, 0.5), {0: 1.0, 2: 1.0, 3: 0.5, 5: 0.5, 6: 0.25}),
        (Step(1.0, 1, 1.0), {0: 1.0, STEPS_MAX: 1.0}),
        (MultiStep(1.0, [0, 3, 4], 0.5), {0: 0.5, 2: 0.5, 3: 0.25, 4: 0.125, 10**15: 0.125}),
        (MultiStep(1.0, [2], 4.0), {1: 1.0, 2: 4.0}),
        (Exponential(1.0, 0.5), {0: 1.0, 1: 0.5, 10: 2**-10, STEPS_MAX: 0.0}),
        (InverseSqrt(1.0, 4), {0: 0.25, 3: 1.0, 4: math.sqrt(4 / 5), 15: 0.5}),
        (InverseSqrt(1.0, 1), {0: 1.0, 3: 0.5}),
        (Cosine(1.0, 0.0, steps=2), {0: 1.0, 1: 0.5, 2: 0.0, 3: 0.0}),
        (Cosine(0.5, 0.5, steps=3), {0: 0.5, 1: 0.5, 99: 0.5}),
        (SGDR(1.0, 0.0, 2), {0: 1.0, 1: 0.5, 2: 1.0, 3: 0.5}),
        (SGDR(1.0, 0.5, 1, 2), {0: 1.0, 1: 1.0, 2: 0.75, 3: 1.0, 5: 0.75, 7: 1.0}),
        (SGDR(1.0, 0.0, 2, 2, 0.5), {0: 1.0, 2: 0.5, 6: 0.25, 14: 0.125}),
        (Cyclical(0.0, 1.0, 2), {0: 0.0, 1: 0.5, 2: 1.0, 3: 0.5, 4: 0.0, 6: 1.0}),
        (Cyclical(0.0, 1.0, 1), {0: 0.0, 1: 1.0, 2: 0.0}),
        (Cyclical(0.5, 1.0, 2, "triangular2"), {2: 1.0, 4: 0.5, 6: 0.75, 10: 0.625, STEPS_MAX - 2: 0.5}),
        (Cyclical(0.0, 1.0, 1, "exp_range", 0.5), {1: 0.5, 2: 0.0, 3: 0.125}),
        (
            OneCycle(1.0, 10, pct_start=0.5, div_factor=4, final_div_factor=2),
            {0: 0.25, 2: 0.625, 4: 1.0, 9: 0.125, 10: 0.125},
        ),
        (OneCycle(1.0, 1), {0: 4e-6, 1: 4e-6}),
        (OneCycle(1.0, 3, pct_start=0.3), {0: 1.0, 2: 4e-6}),
        (WarmupStableDecay(1.0, 2, 2, 2), {0: 0.5, 1: 1.0, 3: 1.0, 4: 1.0, 5: 0.5, 6: 0.0, 7: 0.0}),
        (WarmupStableDecay(1.0, 0, 0, 1, 0.5), {0: 1.0, 1: 0.5, 2: 0.5}),
        (Warmup(1.0, steps=1), {0: 1.0, 1: 1.0}),
        (Warmup(1.0, steps=4), {0: 0.25, 3: 1.0, 4: 1.0}),
        (
            Sequence([(2, 1.0), (1, 0.5), (2, Linear(1.0, 0.0, 4))]),
            {0: 1.0, 1: 1.0, 2: 0.5, 3: 1.0, 4: 0.75, 5: 0.5, 7: 0.0},
        ),
        (Table([(3, 1.0)]), {0: 1.0, 3: 1.0, 4: 1.0}),
        (Table([(2, 1.0), (4, 0.0)]), {0: 1.0, 2: 1.0, 3: 0.5, 4: 0.0, 5: 0.0}),
        (Table([(2, 1.0), (4, 0.0)], "constant"), {0: 1.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0}),
    ],
    ids=str,
)
def test_borders(schedule: Schedule, values: dict[int, float]) -> None:
    assert {t: value_at(schedule, t) for t in values} == pytest.approx(values, rel=1e-15, abs=1e-16)


@pytest.mark.parametrize("runs", [1, 10, 30, 40, 52])
def test_restarts_are_exact_however_far_out(runs: int) -> None:
    schedule = SGDR(0.3, 1e-7, 1, 2)
    restart = 2**runs - 1
    assert value_at(schedule, restart) == 0.3
    assert value_at(schedule, restart - 1) < 0.3 or runs == 1
    regular = SGDR(0.3, 1e-7, 3**10)
    assert value_at(regular, 3**10 * (STEPS_MAX // 3**10)) == 0.3


def test_triangles_are_exact_however_far_out() -> None:
    size = 12_347
    for policy in ("triangular", "triangular2"):
        schedule = Cyclical(1e-7, 0.3, size, policy)
        foot = 2 * size * (STEPS_MAX // (2 * size) - 1)
        assert value_at(schedule, foot) == 1e-7
        assert value_at(schedule, foot + size) == (0.3 if policy == "triangular" else 1e-7)
    assert value_at(Cyclical(1e-7, 0.3, size), size) == 0.3


def test_a_table_gives_its_points_exactly() -> None:
    dice = random.Random(1)
    points = [(7 * place + dice.randrange(7), dice.random()) for place in range(1000)]
    rate = rate_of(Table(points))
    assert [rate(step) for step, _ in points] == [value for _, value in points]


def test_many_pieces_are_found_like_a_few() -> None:
    """By halving, not one after another: 10,000 parts take about as many looks as 14."""
    looks = 0

    class Counted(int):
        def __lt__(self, other: int) -> bool:
            nonlocal looks
            looks += 1
            return int(self) < int(other)

    rate_of(Sequence([(1, float(i)) for i in range(10_000)]))(Counted(9_000))
    rate_of(Table([(i, float(i)) for i in range(10_000)]))(Counted(9_000))
    rate_of(MultiStep(1.0, range(10_000), 0.999))(Counted(9_000))
    assert 0 < looks < 60


@pytest.mark.parametrize(("steps", "rise"), [(100, 0.3), (777, 0.123), (20, 0.5)])
def test_the_momentum_of_one_cycle_mirrors_its_rate(steps: int, rise: float) -> None:
    momentum = momentum_of(OneCycle(0.1, steps, rise))
    formula = one_cycle(0.95, 0.85, 0.95, steps, rise)
    assert momentum is not None
    for t in range(steps + 10):
        assert momentum(t) == pytest.approx(formula(t), rel=1e-12)
    assert momentum_of(Cosine(0.1, 0.0, 10)) is None


LOSSES = [1.0, 0.9, 0.95, 0.9, 0.89995, 0.91, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize(
    "spec",
    [
        Plateau(1.0, patience=0),
        Plateau(1.0, factor=0.5, patience=2),
        Plateau(1.0, factor=0.5, patience=1, cooldown=3),
        Plateau(1.0, factor=0.1, patience=1, lr_min=0.05),
        Plateau(1.0, factor=0.5, patience=1, threshold=0.2),
        Plateau(1.0, factor=0.0, patience=1),
    ],
    ids=str,
)
def test_plateau_counts_rounds_without_improvement(spec: Plateau) -> None:
    lr, best, bad, rest = spec.lr, math.inf, 0, 0
    state = PlateauState.first(spec)
    for loss in LOSSES:
        if loss < best * (1 - spec.threshold):
            best, bad = loss, 0
        else:
            bad += 1
        if rest > 0:
            rest, bad = rest - 1, 0
        if bad > spec.patience:
            lr, rest, bad = max(lr * spec.factor, spec.lr_min), spec.cooldown, 0
        state = state.after(spec, loss)
        assert state.lr == lr


def test_a_worse_negative_loss_is_no_improvement() -> None:
    spec = Plateau(1.0, factor=0.5, patience=0, threshold=0.1)
    state = PlateauState.first(spec).after(spec, -1.0)
    assert state.after(spec, -0.95).lr == 0.5
    assert state.after(spec, -1.2).lr == 1.0
