"""A slice of the bench: what the range test suggests trains as well as the best rate of a grid."""

from __future__ import annotations

import pytest

from tests.bench.range_test import one


@pytest.mark.long
def test_the_suggestion_trains_like_the_best_of_a_grid() -> None:
    run = one("SGDM", seed=0, grid=(0.01, 0.1, 1.0))
    best = max(run.grid)
    assert best > 0.95
    # One seed alone: 360 held-out digits, so that a point is four of them.
    assert run.cyclical > best - 0.02
    assert run.constant > best - 0.02
    assert run.test.end == "diverged"
