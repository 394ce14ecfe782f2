"""Numbers at the ends of their fields: refused with nothing changed, or taken with an outcome that can be told."""

from __future__ import annotations

import math

import pytest
from optimd_server.core.effects import Status
from optimd_server.core.events import Version
from optimd_server.service.messages import put_outcome
from optimdpb.errors import Refused
from optimdpb.specs import Async, Consistency, Ssp, Sync
from optimdpb.v1 import optimd_pb2 as pb

from tests.unit.core.conftest import LINEAGE, Job

MODELS = [Sync(1), Async(), Async(staleness_scale="inverse"), Async(staleness_max=3), Ssp(1)]


@pytest.mark.parametrize("consistency", MODELS, ids=repr)
@pytest.mark.parametrize("step", [-1, -(2**63), 2**53 + 1, 2**63 - 1])
def test_a_base_step_that_no_version_has_is_refused(consistency: Consistency, step: int) -> None:
    job = Job(consistency=consistency).ready()
    job.join("w0")
    with pytest.raises(Refused, match=r"base_version\.step: expected 0 to 2\^53") as caught:
        job.push("w0", base=Version(LINEAGE, step))
    assert (caught.value.reason, caught.value.metadata) == ("INVALID_PUSH", {"field": "base_version.step"})
    assert job.machine.version.step == 0
    job.push("w0")
    outcome = job.outcome("w0")
    assert outcome is not None
    assert outcome.status is Status.APPLIED


@pytest.mark.parametrize("consistency", MODELS, ids=repr)
@pytest.mark.parametrize("loss", [None, math.nan, math.inf, -1e308])
@pytest.mark.parametrize("weight", [5e-324, 1e18])
@pytest.mark.parametrize("magnitude", [0.0, 1e18, 1e38, math.inf])
@pytest.mark.parametrize("base", [Version(LINEAGE, 0), Version(LINEAGE, 2**53), Version("\U0010ffff" * 40, 7)])
def test_every_outcome_can_be_told(
    consistency: Consistency, loss: float | None, weight: float, magnitude: float, base: Version
) -> None:
    job = Job(consistency=consistency).ready()
    job.join("w0")
    job.push("w0", magnitude, base=base, weight=weight, loss=loss)
    outcome = job.outcome("w0")
    assert outcome is not None
    response = pb.PushResponse()
    put_outcome(response, outcome)
    told = pb.PushResponse.FromString(response.SerializeToString()).outcome
    assert (told.seq, told.detail, told.staleness) == (outcome.seq, outcome.detail, outcome.staleness)
