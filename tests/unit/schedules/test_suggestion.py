"""What a curve of losses suggests, and that no curve is too strange."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimd_server.core.range_test import RATIO_MIN
from optimd_server.schedules.range_test import suggest, sweep_of

RATES = [10 ** (-6 + 7 * place / 199) for place in range(200)]


def curve(rate: float, falls_at: float = 1e-3, diverges_at: float = 0.3) -> float:
    """2.3, then down to 0.1 around one rate, then up from another on."""
    fall = 2.2 / (1 + (rate / falls_at) ** 2)
    return 0.1 + fall + max(0.0, rate / diverges_at - 1.0) * 5


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(("falls_at", "diverges_at"), [(1e-3, 0.3), (1e-4, 0.01), (0.03, 1.0)])
def test_steepest_descent_and_edge(falls_at: float, diverges_at: float, noise: float) -> None:
    dice = random.Random(0)
    losses = [curve(rate, falls_at, diverges_at) + dice.gauss(0, noise) for rate in RATES]
    found = suggest(RATES, losses)
    assert found.lr_base == pytest.approx(falls_at, rel=0.5 if noise else 0.15)
    assert found.lr_max == pytest.approx(diverges_at, rel=0.35)
    assert f"falls fastest at {found.lr_base:.3g}" in found.explanation
    assert f"{found.lr_max:.3g}, the edge of divergence" in found.explanation
    assert len(found.smoothed) == len(losses)


def test_smoothing_moves_nothing_sideways() -> None:
    straight = [10.0 - 0.04 * place for place in range(200)]
    smoothed = suggest(RATES, straight).smoothed
    assert smoothed[20:180] == pytest.approx(straight[20:180], rel=1e-12)


def test_a_curve_that_only_falls_has_no_edge_yet() -> None:
    found = suggest(RATES, [curve(rate, 1e-3, 1e9) for rate in RATES])
    assert found.lr_base == pytest.approx(1e-3, rel=0.15)
    assert found.lr_max == RATES[-1]
    assert "sweep further" in found.explanation


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([], "at least 5 rounds with a loss, got 0"),
        ([2.0, 1.0, 0.5, 0.1], "got 4"),
        ([2.3] * 200, "never falls clearly"),
        ([2.3 + 0.01 * place for place in range(200)], "never falls clearly"),
        ([2.3 - 0.0001 * place for place in range(200)], "never falls clearly"),
        ([0.0] * 200, "never falls clearly"),
    ],
)
def test_no_suggestion(losses: list[float], words: str) -> None:
    found = suggest(RATES[: len(losses)], losses)
    assert (found.lr_base, found.lr_max) == (None, None)
    assert "no suggestion" in found.explanation
    assert words in found.explanation


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=True), max_size=60))
def test_no_curve_is_too_strange(losses: list[float]) -> None:
    found = suggest(RATES[: len(losses)], losses)
    assert (found.lr_base is None) == (found.lr_max is None)
    if found.lr_base is not None and found.lr_max is not None:
        assert RATES[0] <= found.lr_base <= found.lr_max <= RATES[-1]
    assert all(math.isfinite(loss) for loss in found.smoothed) or len(losses) < 5


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=60), st.booleans())
def test_nor_are_any_rates(points: list[tuple[float, float]], falling: bool) -> None:
    """Equal, huge, denormal, negative, no number: a restored job must not fail over what it holds."""
    losses = [10.0 - place for place in range(len(points))] if falling else [loss for _, loss in points]
    found = suggest([rate for rate, _ in points], losses)
    assert (found.lr_base is None) == (found.lr_max is None)
    assert len(found.smoothed) == len(points)


@pytest.mark.parametrize("rate", [1.0, 5e-324, 1.7e308])
def test_rates_that_are_all_the_same(rate: float) -> None:
    found = suggest([rate] * 20, [20.0 - place for place in range(20)])
    assert (found.lr_base, found.lr_max) == (rate, rate)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize(("start", "steps"), [(1e-30, 10_000), (1.0, 10), (1e29, 10_000)])
def test_at_the_least_ratio_each_step_has_a_rate_of_its_own(kind: str, start: float, steps: int) -> None:
    rate = sweep_of(start, RATIO_MIN * start, steps, kind)
    values = [rate(step) for step in range(steps)]
    assert all(a < b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_sweep_rises_from_one_end_to_the_other(kind: str) -> None:
    rate = sweep_of(1e-6, 10.0, 50, kind)
    values = [rate(step) for step in range(50)]
    assert (values[0], values[-1]) == (1e-6, 10.0)
    assert values == sorted(values)
    steps = [b / a if kind == "exponential" else b - a for a, b in itertools.pairwise(values)]
    assert steps == pytest.approx([steps[0]] * 49, rel=1e-6)
