"""WorkerService, its data plane: push, pull, step. Payloads come in messages, or lie in shared memory already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from optimdpb.checksum import crc32c
from optimdpb.errors import Refused
from optimdpb.frames import Framed, with_data
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.effects import Outcome, Proceed
from optimd_server.core.events import Push, PushCommitted, PushOffered, SignOfLife, Version
from optimd_server.runtime import JobHost, Runtime
from optimd_server.service.dispatch import Method
from optimd_server.service.messages import (
    check_pull_encoding,
    checksum_of,
    gradient_dtype,
    header,
    next_chunk,
    push_from_proto,
    put_outcome,
    required,
)
from optimd_server.state import StagedGradient


class PayloadService:
    """The functions behind the rpcs of the same names."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def methods(self) -> Mapping[str, Method]:
        """What is served, by rpc name."""
        return {"Push": self.push, "Pull": self.pull, "Step": self.step}

    async def push(self, requests: AsyncIterator[Framed]) -> pb.PushResponse:
        first = await anext(requests, None)
        if first is None:
            raise Refused("MALFORMED_REQUEST", "expected a push header, got an empty stream", field="header")
        message = required(first.message, "header")
        host = self._runtime.job(message.job)
        push = push_from_proto(host, message)
        if Proceed() in host.handle(PushOffered(push)):
            if message.shared_buffer:
                await _commit_shared(host, push, message.shared_buffer)
            else:
                await _receive(host, push, first, requests)
        outcome = await host.wait_outcome(push.worker, push.epoch, push.seq, self._runtime.wait_s())
        response = pb.PushResponse(header=header(self._runtime, host), finished=host.machine.state.finished)
        put_outcome(response, outcome)
        return response

    async def step(self, request: Framed) -> pb.StepResponse | bytes:
        message = required(request.message, "header")
        host = self._runtime.job(message.job)
        if not message.shared_buffer:
            self._check_step(host)
        push = push_from_proto(host, message)
        if Proceed() in host.handle(PushOffered(push)):
            if message.shared_buffer:
                await _commit_shared(host, push, message.shared_buffer)
            else:
                _take(host, push, request)
        outcome = await host.wait_outcome(push.worker, push.epoch, push.seq, self._runtime.wait_s())
        response = pb.StepResponse(header=header(self._runtime, host), finished=host.machine.state.finished)
        put_outcome(response, outcome)
        if not isinstance(outcome, Outcome):
            return response
        try:
            return await _with_parameters(host, push, response, in_place=bool(message.shared_buffer))
        except Refused as error:  # any other reason would say that the push was not taken
            text = f"the push has its outcome, and the parameters cannot be sent: {error}"
            raise Refused("INTERNAL", text, cause=error.reason) from error

    async def pull(self, request: pb.PullRequest) -> AsyncIterator[pb.PullResponse | bytes]:
        host = self._runtime.job(request.job)
        host.check_goes_on()
        check_pull_encoding(request.encoding)
        if request.view not in (pb.VIEW_UNSPECIFIED, pb.VIEW_TRAIN, pb.VIEW_EVAL):
            raise Refused("UNSUPPORTED_ENCODING", f"expected a known view, got number {request.view}", field="view")
        if request.worker:
            host.handle(SignOfLife(request.worker, request.epoch))
        if not host.ready.is_set():
            text = f"job {host.name!r} waits for its parameters"
            raise Refused("JOB_NOT_READY", text, job=host.name, state="INITIALIZING")
        view = request.view or pb.VIEW_TRAIN
        response = pb.PullResponse(header=header(self._runtime, host))
        known = request.known_version if request.HasField("known_version") else None
        version = host.machine.version
        if known is not None and (known.lineage, known.step) == (version.lineage, version.step):
            _put_parameters(response, host, version, view, 0)
            yield response
            return
        if request.shared_memory:
            version, location = await host.locate(request.worker, request.epoch)
            if location != pb.LOCATION_NONE:
                _put_parameters(response, host, version, view, host.shards.size_bytes, location)
                yield response
                return
        encoded = await host.parameters.encoded(request.encoding)
        _put_parameters(response, host, encoded.version, view, encoded.payload_bytes)
        response.parameters.encoding = request.encoding or pb.ENCODING_F32
        yield response
        for chunk in encoded.read():
            yield chunk

    def _check_step(self, host: JobHost) -> None:
        limit, size = self._runtime.config.step_bytes_max, host.shards.size_bytes
        if size > limit:
            text = f"expected a model of at most step_bytes_max = {limit} for Step, got {size}: use Push"
            raise Refused("LIMIT_EXCEEDED", text, limit="step_bytes_max", limit_value=limit, value=size)


async def _with_parameters(
    host: JobHost, push: Push, response: pb.StepResponse, *, in_place: bool
) -> pb.StepResponse | bytes:
    if in_place:
        version, location = await host.locate(push.worker, push.epoch)
        _put_parameters(response, host, version, pb.VIEW_TRAIN, host.shards.size_bytes, location)
        return response
    version, parameters = await host.parameters.copied()
    data = parameters.view("u1")
    response.crc32c = crc32c(data)
    _put_parameters(response, host, version, pb.VIEW_TRAIN, data.nbytes)
    return with_data(response, data)


async def _receive(host: JobHost, push: Push, first: Framed, requests: AsyncIterator[Framed]) -> None:
    """Stage the payload and commit it. A stream that breaks or is refused leaves nothing committed."""
    staged = host.stage(push, gradient_dtype(first.message.header.encoding))
    try:
        request: Framed | None = first
        while request is not None:
            staged.write(request.message.offset_bytes, request.data, checksum_of(request.message))
            request = await _next_while_open(staged, requests)
            if staged.received_bytes and request is not None:
                host.handle(SignOfLife(push.worker, push.epoch))
        staged.check_complete()
        staged.check_open()
        host.handle(PushCommitted(push, staged.magnitude_max))
    except BaseException:  # cancelled, broken or refused
        host.give_up(staged)
        raise


async def _next_while_open(staged: StagedGradient, requests: AsyncIterator[Framed]) -> Framed | None:
    """As next_chunk(). Raises Refused(PUSH_SUPERSEDED) as soon as nothing more can come of this stream."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:
            staged.on_close = lambda: limit.reschedule(loop.time())
            try:
                return await next_chunk(requests)
            finally:
                staged.on_close = None
    except TimeoutError:
        staged.check_open()
        raise


def _take(host: JobHost, push: Push, request: Framed) -> None:
    """As _receive(), of one message."""
    staged = host.stage(push, gradient_dtype(request.message.header.encoding))
    try:
        staged.write(0, request.data, checksum_of(request.message))
        staged.check_complete()
        host.handle(PushCommitted(push, staged.magnitude_max))
    except BaseException:
        host.give_up(staged)
        raise


async def _commit_shared(host: JobHost, push: Push, number: int) -> None:
    """Commit what lies in a shared buffer. A call that is given up before that leaves nothing committed."""
    gradient = host.adopt(push, number)
    try:
        host.handle(PushCommitted(push, await host.scan(push, gradient)))
    except BaseException:
        host.give_up(gradient)
        raise


def _put_parameters(
    response: pb.PullResponse | pb.StepResponse,
    host: JobHost,
    version: Version,
    view: pb.View,
    payload_bytes: int,
    location: pb.Location = pb.LOCATION_UNSPECIFIED,
) -> None:
    parameters = response.parameters
    parameters.version.lineage, parameters.version.step = version.lineage, version.step
    parameters.view, parameters.encoding, parameters.location = view, pb.ENCODING_F32, location
    parameters.payload_bytes = payload_bytes
    parameters.layout_digest = host.spec.layout.digest
