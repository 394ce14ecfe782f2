"""A gRPC server of one job that keeps books and misbehaves on demand.

Every push is applied at once, as one step, without any arithmetic: what matters is which payload was taken when, and
what the client made of the answer.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from optimdpb.checksum import crc32c
from optimdpb.codec import layout_from_proto
from optimdpb.errors import STATUS_OF_REASON
from optimdpb.v1 import optimd_pb2 as pb

LINEAGE = "a" * 32
LEASE_MS = 60_000
STEP_BYTES_MAX = 2 << 20
PULL_CHUNK_BYTES = 1 << 20

# What happens to one call: gets the call's ordinary processing and its context, returns the response.
Fault = Callable[[Callable[[], Any], grpc.ServicerContext], Any]


def fail(code: grpc.StatusCode) -> Fault:
    """The call ends with a bare status before anything happened."""
    return lambda _, context: context.abort(code, "made up by the test")


def lose_reply(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Fault:
    """The call is carried out, its reply is lost."""

    def fault(process: Callable[[], Any], context: grpc.ServicerContext) -> Any:
        process()
        return context.abort(code, "made up by the test")

    return fault


def refuse(reason: str, retry_delay_ms: int | None = None) -> Fault:
    """The call is refused with a reason of the contract, and nothing happened."""

    def fault(_: Callable[[], Any], context: grpc.ServicerContext) -> Any:
        code = grpc.StatusCode[STATUS_OF_REASON[reason]]
        status = status_pb2.Status(code=code.value[0], message="made up by the test")
        details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="optimd", metadata={"worker": "w0"})]
        if retry_delay_ms is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(retry_delay_ms)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        return context.abort(code, status.message)

    return fault


def change(**fields: Any) -> Fault:
    """The call is carried out and answered with fields of the response set anew."""

    def fault(process: Callable[[], Any], _: grpc.ServicerContext) -> Any:
        response = process()
        for name in fields:
            response.ClearField(name)
        response.MergeFrom(type(response)(**fields))
        return response

    return fault


def held() -> Fault:
    """The push is taken; the answer is WAITING."""
    return change(state=pb.PUSH_STATE_WAITING)


class FakeServer:
    """`address` is HOST:PORT. `plan(rpc, fault, ...)` says what happens to the next calls of an rpc, in order.

    `calls`: (rpc, request) of every call, with the header alone for streams. `taken`: (epoch, seq) to payload of every
    push that was taken.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.taken: dict[tuple[int, int], bytes] = {}
        self.read_bytes = 0
        self.layout: Any = None
        self.step = 0
        self._parameters = b""
        self._epoch = 0
        self._spec: Any = None
        self._plans: dict[str, deque[Fault]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(8))
        for service in ("JobService", "WorkerService"):
            descriptor = pb.DESCRIPTOR.services_by_name[service]
            handlers = {rpc.name: self._handler(rpc) for rpc in descriptor.methods}
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(descriptor.full_name, handlers)]
            )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Break what is open and listen no more."""
        self._server.stop(0).wait()

    def plan(self, rpc: str, *faults: Fault) -> None:
        """Apply the faults to the next calls of an rpc, one each."""
        self._plans[rpc].extend(faults)

    def forget_plans(self) -> None:
        """From here on everything goes well."""
        self._plans.clear()

    def names(self) -> list[str]:
        """The rpcs called so far, heartbeats left out."""
        return [name for name, _ in self.calls if name != "Heartbeat"]

    def requests(self, rpc: str) -> list[Any]:
        """The requests (or first messages) of an rpc so far."""
        return [request for name, request in self.calls if name == rpc]

    def _handler(self, rpc: Any) -> grpc.RpcMethodHandler[Any, Any]:
        parse = GetMessageClass(rpc.input_type).FromString

        def run(request: Any, messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with self._lock:
                self.calls.append((rpc.name, request))
                fault = self._plans[rpc.name].popleft() if self._plans[rpc.name] else None
            process = lambda: getattr(self, f"_{rpc.name}")(request, messages)  # noqa: E731
            return fault(process, context) if fault else process()

        encode = type(pb.Header()).SerializeToString
        if rpc.client_streaming:
            return grpc.stream_unary_rpc_method_handler(
                lambda messages, context: run(next(messages), messages, context), parse, encode
            )
        if rpc.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: iter(run(request, iter(()), context)), parse, encode
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: run(request, iter(()), context), parse, encode
        )

    def _header(self) -> pb.Header:
        return pb.Header(lineage=LINEAGE, step=self.step, incarnation="b" * 32)

    def _limits(self) -> pb.Limits:
        return pb.Limits(chunk_bytes_max=2 << 20, step_bytes_max=STEP_BYTES_MAX, wait_ms_max=20_000)

    def _GetServerInfo(self, *_: Any) -> Any:
        return pb.GetServerInfoResponse(limits=self._limits())

    def _CreateJob(self, request: pb.CreateJobRequest, _: Any) -> Any:
        if self._spec is None:
            self._spec = request.spec
            self.layout = layout_from_proto(request.spec.layout)
        ready = bool(self._parameters)
        disposition = pb.CREATE_DISPOSITION_READY if ready else pb.CREATE_DISPOSITION_UPLOAD
        return pb.CreateJobResponse(
            header=self._header(),
            disposition=disposition,
            upload_token=7,
            upload_lease_ms=1000,
            limits=self._limits(),
            spec_digest=self._spec_digest(),
        )

    def _spec_digest(self) -> bytes:
        return hashlib.sha256(self._spec.SerializeToString()).digest()

    def _UploadParameters(self, first: pb.UploadParametersRequest, messages: Iterator[Any]) -> Any:
        data = self._read(messages)
        assert len(data) == first.header.payload_bytes
        self._parameters = data
        return pb.UploadParametersResponse(header=self._header())

    def _GetJob(self, *_: Any) -> Any:
        return pb.GetJobResponse(
            header=self._header(), state=pb.JOB_STATE_READY, spec=self._spec, spec_digest=self._spec_digest()
        )

    def _StartRangeTest(self, request: pb.StartRangeTestRequest, _: Any) -> Any:
        return pb.StartRangeTestResponse(header=self._header())

    def _GetRangeTest(self, *_: Any) -> Any:
        return pb.GetRangeTestResponse(header=self._header(), request_id="range-test")

    def _Join(self, *_: Any) -> Any:
        self._epoch += 1
        return pb.JoinResponse(header=self._header(), epoch=self._epoch, lease_ms=LEASE_MS, limits=self._limits())

    def _Leave(self, *_: Any) -> Any:
        return pb.LeaveResponse(header=self._header())

    def _Heartbeat(self, *_: Any) -> Any:
        return pb.HeartbeatResponse(header=self._header(), lease_ms=LEASE_MS)

    def _Push(self, first: pb.PushRequest, messages: Iterator[Any]) -> Any:
        self._take(first.header, self._read(messages))
        return pb.PushResponse(header=self._header(), state=pb.PUSH_STATE_DONE, outcome=self._outcome(first.header.seq))

    def _Step(self, request: pb.StepRequest, _: Any) -> Any:
        self._take(request.header, request.data)
        parameters = self._parameters_header()
        return pb.StepResponse(
            header=self._header(),
            state=pb.PUSH_STATE_DONE,
            outcome=self._outcome(request.header.seq),
            parameters=parameters,
            crc32c=crc32c(self._parameters),
            data=self._parameters,
        )

    def _Pull(self, *_: Any) -> Iterator[Any]:
        yield pb.PullResponse(header=self._header(), parameters=self._parameters_header())
        for offset in range(0, len(self._parameters), PULL_CHUNK_BYTES):
            chunk = self._parameters[offset : offset + PULL_CHUNK_BYTES]
            yield pb.PullResponse(offset_bytes=offset, crc32c=crc32c(chunk), data=chunk)

    def _AwaitOutcome(self, request: pb.AwaitOutcomeRequest, _: Any) -> Any:
        if (request.epoch, request.seq) not in self.taken:
            return pb.AwaitOutcomeResponse(header=self._header(), state=pb.PUSH_STATE_UNKNOWN)
        outcome = self._outcome(request.seq)
        return pb.AwaitOutcomeResponse(header=self._header(), state=pb.PUSH_STATE_DONE, outcome=outcome)

    def _parameters_header(self) -> pb.ParametersHeader:
        return pb.ParametersHeader(
            version=pb.Version(lineage=LINEAGE, step=self.step),
            payload_bytes=len(self._parameters),
            layout_digest=self.layout.digest,
        )

    def _take(self, header: pb.PushHeader, data: bytes) -> None:
        if (header.epoch, header.seq) not in self.taken:
            self.taken[header.epoch, header.seq] = data
            self.step += 1

    def _outcome(self, seq: int) -> pb.Outcome:
        return pb.Outcome(
            status=pb.OUTCOME_STATUS_APPLIED, seq=seq, applied_step=self.step - 1, learning_rate=0.25, world_size=1
        )

    def _read(self, messages: Iterator[Any]) -> bytes:
        data = b""
        for message in messages:
            assert message.offset_bytes == len(data)
            assert message.crc32c == crc32c(message.data)
            assert len(message.data) <= self._limits().chunk_bytes_max
            data += message.data
            self.read_bytes += len(message.data)
        return data


def gradient_of(payload: bytes) -> list[float]:
    """A taken payload as numbers."""
    values: list[float] = np.frombuffer(payload, "<f4").tolist()
    return values
