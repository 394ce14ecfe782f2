"""WorkerService: join, push, pull, step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from optimdpb.checksum import crc32c
from optimdpb.errors import Refused
from optimdpb.frames import with_data
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.effects import Outcome, Pending, Proceed
from optimd_server.core.events import (
    LeaveRequested,
    Push,
    PushCommitted,
    PushOffered,
    SignOfLife,
    Version,
)
from optimd_server.runtime import JobHost, Runtime
from optimd_server.service.dispatch import Method
from optimd_server.service.messages import (
    check_encoding,
    check_layout,
    checked_name,
    gradient_dtype,
    header,
    lease_ms,
    limits,
    next_chunk,
    outcome_to_proto,
    push_from_proto,
    required,
)


class WorkerService:
    """The functions behind the rpcs of the same names."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def methods(self) -> Mapping[str, Method]:
        """What is served, by rpc name."""
        return {
            "Join": self.join,
            "Leave": self.leave,
            "Heartbeat": self.heartbeat,
            "Push": self.push,
            "Pull": self.pull,
            "Step": self.step,
            "AwaitOutcome": self.await_outcome,
        }

    async def join(self, request: pb.JoinRequest) -> pb.JoinResponse:
        host = self._runtime.job(request.job)
        worker = checked_name("worker", request.worker)
        if request.layout_digest:
            check_layout(host, request.layout_digest)
        self._check_room(host, worker)
        joined = host.join(worker)
        shard = pb.Shard(element_start=0, element_stop=host.spec.layout.elements)
        return pb.JoinResponse(
            header=header(self._runtime, host),
            epoch=joined.epoch,
            lease_ms=lease_ms(self._runtime),
            shard_map=pb.ShardMap(map_version=1, shards=[shard]),
            rank=joined.rank,
            world_size=joined.world_size,
            limits=limits(self._runtime),
        )

    def _check_room(self, host: JobHost, worker: str) -> None:
        limit, members = self._runtime.config.workers_max, host.machine.state.members
        if len(members) >= limit and not members.has(worker):
            message = f"expected at most workers_max = {limit} live workers, got one more"
            raise Refused("LIMIT_EXCEEDED", message, limit="workers_max", limit_value=limit, value=limit + 1)

    async def leave(self, request: pb.LeaveRequest) -> pb.LeaveResponse:
        host = self._runtime.job(request.job)
        host.handle(LeaveRequested(request.worker, request.epoch))
        return pb.LeaveResponse(header=header(self._runtime, host))

    async def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        host = self._runtime.job(request.job)
        host.handle(SignOfLife(request.worker, request.epoch))
        return pb.HeartbeatResponse(header=header(self._runtime, host), lease_ms=lease_ms(self._runtime))

    async def push(self, requests: AsyncIterator[pb.PushRequest]) -> pb.PushResponse:
        first = await anext(requests, None)
        if first is None:
            raise Refused("MALFORMED_REQUEST", "expected a push header, got an empty stream", field="header")
        message = required(first, "header")
        host = self._runtime.job(message.job)
        push = push_from_proto(host, message)
        if Proceed() in host.handle(PushOffered(push)):
            await self._receive(host, push, first, requests)
        outcome = await host.wait_outcome(push.worker, push.epoch, push.seq, self._runtime.wait_s())
        response = pb.PushResponse(header=header(self._runtime, host), finished=host.machine.state.finished)
        _put_outcome(response, outcome)
        return response

    async def _receive(
        self, host: JobHost, push: Push, first: pb.PushRequest, requests: AsyncIterator[pb.PushRequest]
    ) -> None:
        """Stage the payload and commit it. A stream that breaks or is refused leaves nothing committed."""
        staged = host.stage(push, gradient_dtype(first.header.encoding))
        try:
            request: pb.PushRequest | None = first
            while request is not None:
                staged.write(request.offset_bytes, request.data, request.crc32c if request.HasField("crc32c") else None)
                request = await next_chunk(requests)
                if staged.received_bytes and request is not None:
                    host.handle(SignOfLife(push.worker, push.epoch))
            staged.check_complete()
            staged.check_open()
            host.handle(PushCommitted(push, staged.magnitude_max))
        except BaseException:  # cancelled, broken or refused
            host.give_up(staged)
            raise

    async def step(self, request: pb.StepRequest) -> pb.StepResponse | bytes:
        message = required(request, "header")
        host = self._runtime.job(message.job)
        limit = self._runtime.config.step_bytes_max
        if host.shards.size_bytes > limit:
            text = (
                f"expected a model of at most step_bytes_max = {limit} for Step, got {host.shards.size_bytes}: use Push"
            )
            raise Refused(
                "LIMIT_EXCEEDED", text, limit="step_bytes_max", limit_value=limit, value=host.shards.size_bytes
            )
        push = push_from_proto(host, message)
        if Proceed() in host.handle(PushOffered(push)):
            staged = host.stage(push, gradient_dtype(message.encoding))
            try:
                staged.write(0, request.data, request.crc32c if request.HasField("crc32c") else None)
                staged.check_complete()
                host.handle(PushCommitted(push, staged.magnitude_max))
            except BaseException:
                host.give_up(staged)
                raise
        outcome = await host.wait_outcome(push.worker, push.epoch, push.seq, self._runtime.wait_s())
        if not isinstance(outcome, Outcome):
            response = pb.StepResponse(header=header(self._runtime, host), finished=host.machine.state.finished)
            _put_outcome(response, outcome)
            return response
        version, parameters = await host.copy_parameters()
        data = parameters.view("u1")
        response = pb.StepResponse(
            header=header(self._runtime, host),
            parameters=_parameters_header(host, version, pb.VIEW_TRAIN, data.nbytes),
            crc32c=crc32c(data),
            finished=host.machine.state.finished,
        )
        _put_outcome(response, outcome)
        return with_data(response, data)

    async def pull(self, request: pb.PullRequest) -> AsyncIterator[pb.PullResponse | bytes]:
        host = self._runtime.job(request.job)
        check_encoding(request.encoding)
        if request.view not in (pb.VIEW_UNSPECIFIED, pb.VIEW_TRAIN, pb.VIEW_EVAL):
            raise Refused("UNSUPPORTED_ENCODING", f"expected a known view, got number {request.view}", field="view")
        if request.worker:
            host.handle(SignOfLife(request.worker, request.epoch))
        if not host.ready.is_set():
            raise Refused("JOB_NOT_READY", f"job {host.name!r} waits for its parameters", state="INITIALIZING")
        view = request.view or pb.VIEW_TRAIN
        known = request.known_version if request.HasField("known_version") else None
        version = host.machine.version
        if known is not None and (known.lineage, known.step) == (version.lineage, version.step):
            yield pb.PullResponse(
                header=header(self._runtime, host), parameters=_parameters_header(host, version, view, 0)
            )
            return
        encoded = await host.encoded()
        yield pb.PullResponse(
            header=header(self._runtime, host),
            parameters=_parameters_header(host, encoded.version, view, host.shards.size_bytes),
        )
        for chunk in encoded.chunks:
            yield chunk

    async def await_outcome(self, request: pb.AwaitOutcomeRequest) -> pb.AwaitOutcomeResponse:
        host = self._runtime.job(request.job)
        members = host.machine.state.members
        if members.is_live(request.worker, request.epoch):
            host.handle(SignOfLife(request.worker, request.epoch))
        wait_s = self._runtime.wait_s()
        outcome = await host.wait_outcome(request.worker, request.epoch, request.seq, wait_s)
        response = pb.AwaitOutcomeResponse(header=header(self._runtime, host), finished=host.machine.state.finished)
        _put_outcome(response, outcome)
        return response


def _put_outcome(
    response: pb.PushResponse | pb.StepResponse | pb.AwaitOutcomeResponse, outcome: Outcome | Pending | None
) -> None:
    if isinstance(outcome, Outcome):
        response.state = pb.PUSH_STATE_DONE
        response.outcome.CopyFrom(outcome_to_proto(outcome))
    else:
        response.state = pb.PUSH_STATE_WAITING if isinstance(outcome, Pending) else pb.PUSH_STATE_UNKNOWN


def _parameters_header(host: JobHost, version: Version, view: int, payload_bytes: int) -> pb.ParametersHeader:
    return pb.ParametersHeader(
        version=pb.Version(lineage=version.lineage, step=version.step),
        view=pb.View.Name(view),
        encoding=pb.ENCODING_F32,
        payload_bytes=payload_bytes,
        layout_digest=host.spec.layout.digest,
    )
