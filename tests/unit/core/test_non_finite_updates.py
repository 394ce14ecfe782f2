"""An update that spoils parameters is never applied in silence; one that cannot be computed is not made."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from optimd_server.core.arithmetic import Committed, mean_loss
from optimd_server.core.effects import Apply, Failed, Keep, PutBackKept, Reason, RoundRecord, Status
from optimd_server.core.events import (
    Applied,
    Kept,
    Push,
    PutBack,
    RangeTestRequested,
    Version,
)
from optimd_server.core.range_test import Phase
from optimdpb.specs import SGD, Async, ClipGlobalNorm, Group, Ssp, Sync

from tests.unit.core.conftest import Job

MODELS = [Sync(1), Async(), Ssp(1)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_the_job_fails_and_the_push_has_no_outcome(model: Any) -> None:
    job = Job(consistency=model).ready()
    job.join("w0")
    job.auto_apply = False
    job.push("w0")
    (failed,) = job.send(Applied(0, finite=False))
    assert isinstance(failed, Failed)
    assert "step 0, at the learning rate 0.5, left a parameter infinite or NaN" in failed.problem
    assert job.outcome("w0") is None
    assert not [effect for effect in job.effects if isinstance(effect, RoundRecord)]
    assert job.machine.version.step == 0


def test_in_a_range_test_it_is_divergence_and_put_back() -> None:
    job = Job(consistency=Sync(1)).ready()
    job.join("w0")
    job.auto_apply = False
    job.send(RangeTestRequested("r", "me", 0.0, 1e-3, 1.0, 10, "exponential", "fresh"))
    assert isinstance(job.effects[-1], Keep)
    job.send(Kept(True))
    job.push("w0", loss=1.0)
    job.send(Applied(0, finite=False))
    assert isinstance(job.effects[-1], PutBackKept)
    job.send(PutBack(0))
    test = job.machine.state.range_test
    assert test is not None
    assert (test.phase, test.end) == (Phase.DONE, "diverged")
    assert "left a parameter infinite or NaN" in test.why
    assert (job.machine.version.step, job.machine.version.lineage) == (0, "fresh")


@pytest.mark.parametrize("clip", [None, ClipGlobalNorm(1.0)], ids=["no clip", "clip"])
def test_a_sweep_beyond_float32_ends(clip: Any) -> None:
    job = Job(consistency=Sync(1), clip=clip, groups=(Group("*", lr_multiplier=1e38),)).ready()
    job.join("w0")
    job.send(RangeTestRequested("r", "me", 0.0, 1e-30, 1e30, 10, "exponential", "fresh"))
    test = job.machine.state.range_test
    assert test is not None
    for _ in range(10):
        if test.active:
            job.push("w0", loss=1.0)
    assert (test.phase, test.end) == (Phase.DONE, "diverged")
    assert "exceed float32" in test.why
    assert job.machine.version.lineage == "fresh"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("clip", [None, ClipGlobalNorm(1.0)], ids=["no clip", "clip"])
def test_a_rate_beyond_float32_makes_void_rounds(model: Any, clip: Any) -> None:
    job = Job(consistency=model, clip=clip, optimizer=SGD(1.0), groups=(Group("*", lr_multiplier=1e38),)).ready()
    job.update("big", lr=1e30)
    job.join("w0")
    job.push("w0")
    outcome = job.outcome("w0")
    assert outcome is not None
    assert (outcome.status, outcome.reason) == (Status.DISCARDED, Reason.ROUND_VOID)
    assert "exceed float32" in outcome.detail
    assert not [effect for effect in job.effects if isinstance(effect, Apply)]
    assert (job.machine.version.step, job.machine.state.counters.rounds_void) == (0, 1)
    job.update("small", lr=1e-30)
    job.push("w0")
    assert job.machine.version.step == 1


losses = st.floats(allow_nan=True, allow_infinity=True)
weights = st.floats(min_value=5e-324, max_value=1e18)


@given(st.lists(st.tuples(weights, st.none() | losses), min_size=1, max_size=5))
@example([(1e18, 1e300), (1e18, -1e300)])
@example([(5e-324, 0.3), (5e-324, 0.3)])
@example([(1e18, 1.7976931348623157e308), (1e18, 1.7976931348623157e308)])
def test_the_mean_of_finite_losses_is_finite_and_between_them(pairs: list[tuple[float, float | None]]) -> None:
    pushes = [Committed(Push(f"w{i}", 1, 1, Version("l", 0), *pair), 1.0) for i, pair in enumerate(pairs)]
    mean = mean_loss(pushes)
    finite = [min(max(loss, -1e300), 1e300) for _, loss in pairs if loss is not None and math.isfinite(loss)]
    if not finite:
        assert mean is None
        return
    assert mean is not None
    slack = 1e-9 * max(abs(loss) for loss in finite) + 1e-320  # below it shares of a loss are lost
    assert min(finite) - slack <= mean <= max(finite) + slack
    assert mean == mean_loss(reversed(pushes)), "whoever came first"


def test_the_mean_is_by_weight() -> None:
    pushes = [Committed(Push("a", 1, 1, Version("l", 0), 3.0, 1.0), 1.0)]
    pushes.append(Committed(Push("b", 1, 1, Version("l", 0), 1.0, 5.0), 1.0))
    assert mean_loss(pushes) == pytest.approx(2.0)
