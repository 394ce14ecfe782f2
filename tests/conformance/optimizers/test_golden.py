"""Every rule against kept trajectories of torch and optax, which need not be installed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conformance.optimizers import golden
from tests.conformance.optimizers.peers import by_equation, by_kernel, rms
from tests.conformance.optimizers.rows import ROWS, Row

RULES = json.loads(golden.PATH.read_text())["rules"]


def test_every_row_has_a_trajectory() -> None:
    assert set(RULES) == {row.name for row in ROWS}


@pytest.mark.parametrize("number", range(golden.SETS))
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_as_kept(row: Row, number: int) -> None:
    spec, start, gradients = golden.inputs(row, number)
    kept = RULES[row.name][number]
    assert float(np.sum(gradients, dtype=np.float64)) == pytest.approx(kept["checksum"], rel=1e-12), "other inputs"
    for count, values in kept["points"].items():
        expected = np.array(values)
        travelled = rms(expected - start)
        by_float64 = by_equation(row, spec, start, gradients[: int(count)], np.float64)
        by_float32 = by_equation(row, spec, start, gradients[: int(count)], np.float32)
        by_ours = by_kernel(spec, start, gradients[: int(count)])
        assert rms(by_float64 - expected) < 1e-7 * travelled
        # Five elements are few: the last rounding of a parameter may hit one side alone.
        rounding = 1e-7 * rms(expected)
        assert rms(by_ours - expected) < (10 if row.jumps else 1.5) * rms(by_float32 - expected) + rounding
