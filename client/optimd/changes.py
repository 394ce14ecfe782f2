"""Changing a running job: the request, and what came of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from optimdpb.codec import schedule_to_proto
from optimdpb.specs import Schedule
from optimdpb.specs.schedules import as_schedule
from optimdpb.v1 import optimd_pb2 as pb


@dataclass(frozen=True)
class Change:
    """A change that was taken: its revision, and the step from which it holds."""

    revision: int
    at_step: int


def change_request(
    job: str,
    requester: str,
    schedules: Mapping[str, Schedule | float] = MappingProxyType({}),
    paused: bool | None = None,
    at_step: int | None = None,
    expected_revision: int | None = None,
    steps_max: int | None = None,
) -> pb.UpdateJobRequest:
    """UpdateJob under a fresh request id, so that the call may be repeated. Raises InvalidSpec."""
    request = pb.UpdateJobRequest(
        job=job,
        request_id=uuid.uuid4().hex,
        expected_revision=expected_revision,
        at_step=at_step,
        requester=requester,
        steps_max=steps_max,
        state=None if paused is None else pb.JOB_STATE_PAUSED if paused else pb.JOB_STATE_READY,
    )
    for name, value in schedules.items():
        request.schedules[name].CopyFrom(schedule_to_proto(as_schedule(f"schedules.{name}", value)))
    return request


def change_of(response: pb.UpdateJobResponse) -> Change:
    """From its message."""
    return Change(response.revision, response.at_step)
