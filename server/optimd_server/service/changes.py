"""The calls of JobService that change a running job: other schedules, pause, range tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

from optimdpb.codec import schedule_to_proto, schedules_from_proto
from optimdpb.errors import Refused
from optimdpb.specs import Schedule
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.effects import Updated
from optimd_server.core.events import RangeTestRequested, UpdateRequested
from optimd_server.runtime import JobHost, Runtime
from optimd_server.runtime.shielded import to_its_end
from optimd_server.service.dispatch import Method
from optimd_server.service.messages import check_limit, header

# Larger ones are read on a thread, one request at a time. Smaller ones cannot bring a job far above its bound.
SCHEDULES_INLINE_BYTES_MAX = 8 * 1024

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
        self._reading = asyncio.Lock()

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
        schedules = await self._schedules_of(host, request)
        event = UpdateRequested(
            request.request_id,
            request.requester,
            self._runtime.unix_s(),
            request.expected_revision if request.HasField("expected_revision") else None,
            request.at_step if request.HasField("at_step") else None,
            tuple(schedules.items()),
            paused,
            request.steps_max if request.HasField("steps_max") else None,
        )
        answer = next(effect for effect in host.handle(event) if isinstance(effect, Updated))
        return pb.UpdateJobResponse(
            header=header(self._runtime, host), revision=answer.revision, at_step=answer.at_step
        )

    async def _schedules_of(self, host: JobHost, request: pb.UpdateJobRequest) -> dict[str, Schedule]:
        """Raises Refused(LIMIT_EXCEEDED), and what schedules_from_proto raises."""
        size = sum(message.ByteSize() for message in request.schedules.values())
        check_schedule_bytes(self._runtime, size)
        if size <= SCHEDULES_INLINE_BYTES_MAX:
            return schedules_from_proto("schedules", request.schedules)
        clock = host.machine.state.clock
        in_force = [clock.schedules(), *(dict(change.schedules) for change in clock.pending)]

        def read() -> dict[str, Schedule]:
            schedules = schedules_from_proto("schedules", request.schedules)
            check_schedules(self._runtime, *in_force, schedules)
            return schedules

        return await to_its_end(self._reading, lambda: asyncio.to_thread(read))

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


def check_schedules(runtime: Runtime, *states: Mapping[str, Schedule]) -> None:
    """Raises Refused(LIMIT_EXCEEDED): the answer to GetJob holds what is in force beside the specification.

    states: what may be in force one after the other; of each hyper-parameter the largest counts.
    """
    sizes: dict[str, int] = {}
    for state in states:
        for name, schedule in state.items():
            sizes[name] = max(sizes.get(name, 0), schedule_to_proto(schedule).ByteSize())
    check_schedule_bytes(runtime, sum(sizes.values()))


def check_schedule_bytes(runtime: Runtime, size_bytes: int) -> None:
    """Raises Refused(LIMIT_EXCEEDED)."""
    check_limit("schedules_bytes_max", runtime.config.spec_bytes_max // 2, size_bytes)
