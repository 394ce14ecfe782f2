"""Raw calls of the contract, without the client library: what a worker in another language would send."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import NDArray
from optimdpb.checksum import crc32c
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import JobSpec, Layout
from optimdpb.v1 import optimd_pb2 as pb

CHUNK_BYTES = 1 << 20


class RawClient:
    """Every rpc of the contract by name: `client.call("Join", pb.JoinRequest(...))`, default message limits."""

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self._channel = grpc.insecure_channel(address)
        self._timeout_s = timeout_s
        self._rpcs = {rpc.name: rpc for service in pb.DESCRIPTOR.services_by_name.values() for rpc in service.methods}

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, name: str, request: Message | bytes | Iterable[Message | bytes]) -> Any:
        """Response message, or for a server stream an iterator of them. Requests may be raw bytes."""
        return self._method(name)(request, timeout=self._timeout_s)

    def start(self, name: str, request: Message | bytes | Iterable[Message | bytes]) -> Any:
        """The same without waiting: a future that can be cancelled."""
        return self._method(name).future(request, timeout=self._timeout_s)

    def _method(self, name: str) -> Any:
        rpc = self._rpcs[name]
        kinds = {(False, False): "unary_unary", (True, False): "stream_unary", (False, True): "unary_stream"}
        make: Callable[..., Any] = getattr(self._channel, kinds[rpc.client_streaming, rpc.server_streaming])
        return make(
            f"/{rpc.containing_service.full_name}/{name}",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=GetMessageClass(rpc.output_type).FromString,
        )

    def create(self, job: str, spec: JobSpec, worker: str) -> Any:
        """CreateJob."""
        return self.call("CreateJob", pb.CreateJobRequest(job=job, spec=job_spec_to_proto(spec), worker=worker))

    def create_ready(self, job: str, spec: JobSpec, parameters: NDArray[np.float32], worker: str = "w0") -> None:
        """Create a job and upload its parameters."""
        answer = self.create(job, spec, worker)
        assert answer.disposition == pb.CREATE_DISPOSITION_UPLOAD
        self.call("UploadParameters", upload_messages(job, answer.upload_token, spec.layout, parameters))

    def join(self, job: str, worker: str) -> Any:
        """Join."""
        return self.call("Join", pb.JoinRequest(job=job, worker=worker))

    def pull(self, job: str) -> tuple[pb.Version, NDArray[np.float32]]:
        """Version and flat parameters."""
        messages = list(self.call("Pull", pb.PullRequest(job=job)))
        flat = np.frombuffer(b"".join(message.data for message in messages), np.float32)
        return messages[0].parameters.version, flat


def upload_messages(
    job: str, token: int, layout: Layout, parameters: NDArray[np.float32], chunk_bytes: int = CHUNK_BYTES
) -> Iterator[pb.UploadParametersRequest]:
    """The stream of an upload."""
    data = parameters.astype("<f4").tobytes()
    header = pb.UploadHeader(job=job, upload_token=token, payload_bytes=len(data), layout_digest=layout.digest)
    yield pb.UploadParametersRequest(header=header)
    for offset in range(0, len(data), chunk_bytes):
        chunk = data[offset : offset + chunk_bytes]
        yield pb.UploadParametersRequest(offset_bytes=offset, crc32c=crc32c(chunk), data=chunk)


def push_header(
    job: str, worker: str, epoch: int, seq: int, base: pb.Version, layout: Layout, **fields: Any
) -> pb.PushHeader:
    """A push header; `fields` override."""
    values: dict[str, Any] = {
        "job": job,
        "worker": worker,
        "epoch": epoch,
        "seq": seq,
        "base_version": base,
        "weight": 1.0,
        "payload_bytes": layout.size_bytes,
        "layout_digest": layout.digest,
    }
    return pb.PushHeader(**{**values, **fields})


def push_messages(
    header: pb.PushHeader, gradient: NDArray[np.float32], chunk_bytes: int = CHUNK_BYTES
) -> Iterator[pb.PushRequest]:
    """The stream of a push."""
    data = gradient.astype("<f4").tobytes()
    yield pb.PushRequest(header=header)
    for offset in range(0, len(data), chunk_bytes):
        chunk = data[offset : offset + chunk_bytes]
        yield pb.PushRequest(offset_bytes=offset, crc32c=crc32c(chunk), data=chunk)


def step_message(header: pb.PushHeader, gradient: NDArray[np.float32]) -> pb.StepRequest:
    """The request of a unary step."""
    data = gradient.astype("<f4").tobytes()
    return pb.StepRequest(header=header, crc32c=crc32c(data), data=data)


def refusal(call: Callable[[], object]) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the error that a call must end with."""
    try:
        call()
    except grpc.RpcError as error:
        return reason_of(error)
    raise AssertionError("expected a refusal, the call was answered")


def reason_of(error: grpc.RpcError) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the ErrorInfo that every error of the contract carries; ("", {}) if there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason, dict(info.metadata)
    return "", {}
