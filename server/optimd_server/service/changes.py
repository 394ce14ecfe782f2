"""The calls of JobService that change a running job: other schedules, pause, range tests."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from optimdpb.codec import schedule_to_proto, schedules_from_proto
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.effects import Updated
from optimd_server.core.events import RangeTestRequested, UpdateRequested
from optimd_server.core.state import JobState
from optimd_server.runtime import Runtime
from optimd_server.service.dispatch import Method
from optimd_server.service.messages import header

_PAUSED = {pb.JOB_STATE_PAUSED: True, pb.JOB_STATE_READY: False}
_SWEEPS = {
    pb.SWEEP_UNSPECIFIED: "exponential",
    pb.SWEEP_EXPONENTIAL: "exponential",
    pb.SWEEP_LINEAR: "linear",
}


class ChangeService:
    """The functions behind the rpcs of the same names."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def methods(self) -> Mapping[str, Method]:
        """What is served, by rpc name."""
        return {
            "UpdateJob": self.update_job,
            "StartRangeTest": self.start_range_test,
            "GetRangeTest": self.get_range_test,
        }

    async def update_job(self, request: pb.UpdateJobRequest) -> pb.UpdateJobResponse:
        host = self._runtime.job(request.job)
        paused = None
        if request.HasField("state"):
            if request.state not in _PAUSED:
                raise Refused("INVALID_UPDATE", f"state: expected PAUSED or READY, got {request.state}", field="state")
            paused = _PAUSED[request.state]
        event = UpdateRequested(
            request.request_id,
            request.requester,
            self._runtime.unix_s(),
            request.expected_revision if request.HasField("expected_revision") else None,
            request.at_step if request.HasField("at_step") else None,
            tuple(schedules_from_proto("schedules", request.schedules).items()),
            paused,
        )
        answer = next(effect for effect in host.handle(event) if isinstance(effect, Updated))
        return pb.UpdateJobResponse(
            header=header(self._runtime, host), revision=answer.revision, at_step=answer.at_step
        )

    async def start_range_test(self, request: pb.StartRangeTestRequest) -> pb.StartRangeTestResponse:
        host = self._runtime.job(request.job)
        if request.sweep not in _SWEEPS:
            message = f"sweep: expected a value of Sweep, got {request.sweep}"
            raise Refused("INVALID_UPDATE", message, field="sweep")
        event = RangeTestRequested(
            request.request_id,
            request.requester,
            self._runtime.unix_s(),
            request.lr_start,
            request.lr_end,
            request.steps,
            _SWEEPS[request.sweep],
            secrets.token_hex(16),
        )
        host.handle(event)
        return pb.StartRangeTestResponse(header=header(self._runtime, host))

    async def get_range_test(self, request: pb.GetRangeTestRequest) -> pb.GetRangeTestResponse:
        host = self._runtime.job(request.job)
        test = host.machine.state.range_test
        if test is None:
            raise Refused("NO_RANGE_TEST", f"job {host.name!r} has had no range test", job=host.name)
        if test.active:
            host.check_goes_on()
        end = "UNSPECIFIED" if test.active else test.end.upper()
        response = pb.GetRangeTestResponse(
            header=header(self._runtime, host),
            done=not test.active,
            request_id=test.request.request_id,
            end=f"RANGE_TEST_END_{end}",
        )
        for point in test.points:
            response.rounds.add(
                step=point.step,
                learning_rate=point.learning_rate,
                loss=point.loss,
                contributions=point.contributions,
            )
        if test.suggestion is not None:
            response.explanation = test.suggestion.explanation
            response.smoothed.extend(test.suggestion.smoothed)
            if test.suggestion.lr_base is not None and test.suggestion.lr_max is not None:
                response.lr_base, response.lr_max = test.suggestion.lr_base, test.suggestion.lr_max
        return response


def put_changes(response: pb.GetJobResponse, state: JobState) -> None:
    """What is in force and what was changed, into the report of a job."""
    response.revision = state.clock.revision
    for name, schedule in state.clock.schedules().items():
        response.schedules[name].CopyFrom(schedule_to_proto(schedule))
    for entry in state.history:
        response.history.add(**vars(entry))
