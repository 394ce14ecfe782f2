"""Every rule finds the minimum of an ill-conditioned quadratic and goes down Rosenbrock's valley."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from optimdpb.specs import Cosine, Optimizer, Schedule, Warmup

from tests.conformance.optimizers.rows import ROWS, Row
from tests.support.trainer import Trainer, spec_of

Float32s = NDArray[np.float32]
Rule = Callable[[Schedule], Optimizer]

STEPS = 3000
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def train(rule: Rule, lr: float, start: Float32s, gradient: Callable[[Float32s], Float32s]) -> Float32s:
    """Parameters after STEPS updates under a warm-up and a cosine to zero."""
    optimizer = rule(Warmup(Cosine(lr, 0.0, STEPS), steps=100))
    trainer = Trainer(spec_of(optimizer, start.size), start)
    for _ in range(STEPS):
        trainer.update(gradient(trainer.parameters))
    return trainer.parameters


@every_row
def test_quadratic(row: Row) -> None:
    """f = sum of a (w - c)^2 / 2 with curvatures from 0.1 to 10: falls by 10^6."""
    curvature = np.logspace(-1, 1, 64).astype(np.float32)
    minimum = np.linspace(-1, 1, 64).astype(np.float32)
    start = np.full(64, 2.0, np.float32)
    end = train(row.tuned.rule, row.tuned.lr_quadratic, start, lambda w: curvature * (w - minimum))
    value = lambda w: float(np.sum(curvature * (w - minimum) ** 2))  # noqa: E731
    assert value(end) < 1e-6 * value(start)


@every_row
def test_rosenbrock(row: Row) -> None:
    """f = (1 - x)^2 + 100 (y - x^2)^2 from (-1.2, 1): falls by 100, past the bend of the valley."""
    start = np.array([-1.2, 1.0], np.float32)
    x, y = train(row.tuned.rule, row.tuned.lr_rosenbrock, start, _rosenbrock_gradient).tolist()
    assert (1 - x) ** 2 + 100 * (y - x * x) ** 2 < 0.242
    assert x > 0.5


def _rosenbrock_gradient(w: Float32s) -> Float32s:
    x, y = w
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], np.float32)
