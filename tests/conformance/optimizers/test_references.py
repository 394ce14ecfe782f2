"""Every rule against its equation in float64 and against torch or optax: random hyper-parameters, given gradients.

How far float32 may stray is measured by peers that see the same gradients: the same equation in numpy's float32, and
the library. The equation itself must be the library's in float64.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import pytest

from tests.conformance.optimizers.peers import (
    HAS_OPTAX,
    HAS_TORCH,
    STEPS,
    by_equation,
    by_kernel,
    by_library,
    cases,
    rms,
)
from tests.conformance.optimizers.rows import ROWS, Row

SETS, SETS_SHORT = 100, 3
ERROR_RATIO_MAX = 1.5
# What float64 may differ by, relative to the way travelled. torch keeps the product of NAdam's mu in float32.
FLOAT64_RELATIVE = 1e-7


@dataclass(frozen=True)
class Errors:
    """RMS errors of one row against the equation in float64, one for each set."""

    ours: list[float]
    float32: list[float]
    library: list[float]

    def worst(self, peer: list[float]) -> float:
        """The largest ratio of our error to a peer's."""
        return max(mine / theirs for mine, theirs in zip(self.ours, peer, strict=True))


def measure(row: Row, sets: int) -> Errors:
    """Run all peers. Fails where the library computes something else than the equation."""
    errors = Errors([], [], [])
    for spec, start, gradients in cases(row, sets):
        exact = by_equation(row, spec, start, gradients, np.float64)
        travelled = rms(exact - start)
        library64 = by_library(row, spec, start, gradients, np.float64)
        if library64 is not None:
            assert rms(library64 - exact) <= FLOAT64_RELATIVE * travelled, f"the library has another equation: {spec}"
        library32 = by_library(row, spec, start, gradients, np.float32)
        if library32 is not None:
            errors.library.append(rms(library32 - exact))
        errors.ours.append(rms(by_kernel(spec, start, gradients) - exact))
        errors.float32.append(rms(by_equation(row, spec, start, gradients, np.float32) - exact))
        assert errors.ours[-1] < 0.1 * travelled, f"not this equation: {spec}"
    return errors


def check(row: Row, errors: Errors) -> None:
    """At most 1.5 times the error of the library, or of the equation in float32 where no library is."""
    if row.jumps:
        return
    peer = errors.library or errors.float32
    assert errors.worst(peer) <= ERROR_RATIO_MAX, row.name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_as_exact_as_its_peers(row: Row) -> None:
    check(row, measure(row, SETS_SHORT))


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
def test_torch_took_part() -> None:
    row = next(row for row in ROWS if row.torch)
    assert measure(row, 1).library


@pytest.mark.skipif(not HAS_OPTAX, reason="optax is not installed")
def test_optax_took_part() -> None:
    row = next(row for row in ROWS if row.optax)
    assert measure(row, 1).library


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_whole_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{'rule':<18}{'error':>10}{'library':>10}{'float32':>10}   worst ratio, {SETS} sets, {STEPS} steps"]
    for row in ROWS:
        errors = measure(row, SETS)
        check(row, errors)
        name = row.torch[0] if row.torch else row.optax[0] if row.optax else ""
        library = f"{statistics.median(errors.library):10.1e}" if errors.library else f"{'-':>10}"
        ratios = f"{errors.worst(errors.library):.2f} {name}, " if errors.library else ""
        lines.append(
            f"{row.name:<18}{statistics.median(errors.ours):10.1e}{library}{statistics.median(errors.float32):10.1e}"
            f"   {ratios}{errors.worst(errors.float32):.2f} float32{'; exempt: ' + row.jumps if row.jumps else ''}"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
