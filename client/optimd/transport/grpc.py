"""The contract over gRPC, with its default message limits.

Methods are built from the contract's descriptors. The channel is made at the first call and belongs to the process that
made it: gRPC does not survive a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray
from optimdpb.checksum import crc32c
from optimdpb.encodings import UNIT_BYTES, payload_bytes
from optimdpb.errors import ForkedWorker, Refused
from optimdpb.frames import with_data
from optimdpb.v1 import optimd_pb2 as pb

from optimd.address import is_loopback
from optimd.encoding import Float32, Payload
from optimd.transport.base import CallFailed, CallLost
from optimd.transport.failures import failure_of
from optimd.transport.local import LocalConnection
from optimd.transport.shared import NotShared, SharedMemory, check_reachable, fetch

Float32s = NDArray[np.float32]
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
# How long a server may take to make shared memory.
OPEN_S_MAX = 10.0
FILLED_PER_S_MIN = 1e7
_DETAILS_KEY = "grpc-status-details-bin"
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own retry does not cover large pushes and would hide the attempts that are counted here.
    ("grpc.enable_retries", 0),
    # A restarted server must be found quickly; the worker's own back-off spreads the load.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcTransport:
    """One channel to one server, HOST:PORT, and for steps its unix socket, where that was opened."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._closed = False
        self._channel: grpc.Channel | None = None
        self._pid = 0
        self._local: LocalConnection | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._rpcs = {rpc.name: rpc for service in pb.DESCRIPTOR.services_by_name.values() for rpc in service.methods}

    def call(self, method: str, request: Message, timeout_s: float) -> Any:
        """See Transport.call."""
        return self._attempt(lambda: self._method(method)(request.SerializeToString(), timeout=timeout_s))

    def upload(self, header: pb.UploadHeader, flat: Float32s, timeout_s: float) -> pb.UploadParametersResponse:
        """See Transport.upload."""
        payload = Payload(flat, Float32())
        frames = _frames(pb.UploadParametersRequest(header=header), pb.UploadParametersRequest, payload)
        response: pb.UploadParametersResponse = self._attempt(
            lambda: self._method("UploadParameters")(frames, timeout=timeout_s)
        )
        return response

    def share_memory(self, request: pb.OpenSharedMemoryRequest, socket: str | None, elements: int) -> SharedMemory:
        """See Transport.share_memory."""
        if socket is not None:
            check_reachable(socket)
        try:
            offer = self.call("OpenSharedMemory", request, OPEN_S_MAX + elements / FILLED_PER_S_MIN)
        except (Refused, CallFailed) as error:
            raise NotShared(str(error)) from error
        return fetch(offer, elements)

    @property
    def is_local(self) -> bool:
        """See Transport.is_local."""
        return self._local is not None and not self._local.closed

    def open_local(self, offer: pb.LocalCalls) -> None:
        """See Transport.open_local."""
        self._local = LocalConnection(offer)

    def push(self, header: pb.PushHeader, payload: Payload, timeout_s: float) -> pb.PushResponse:
        """See Transport.push."""
        first = pb.PushRequest(header=header)
        frames = iter((first.SerializeToString(),)) if header.shared_buffer else _frames(first, pb.PushRequest, payload)
        response: pb.PushResponse = self._attempt(lambda: self._method("Push")(frames, timeout=timeout_s))
        return response

    def step(
        self, header: pb.PushHeader, payload: Payload, timeout_s: float
    ) -> tuple[pb.StepResponse, Float32s | None]:
        """See Transport.step."""
        if header.shared_buffer:
            request = pb.StepRequest(header=header).SerializeToString()
        else:
            data = payload.whole()
            request = with_data(pb.StepRequest(header=header, crc32c=crc32c(data)), data)
        self._check_process()
        if self._local is not None and not self._local.closed:
            response = pb.StepResponse.FromString(self._local.call("Step", request, timeout_s))
        else:
            response = self._attempt(lambda: self._method("Step")(request, timeout=timeout_s))
        if not response.HasField("parameters") or response.parameters.location:
            return response, None
        parameters = np.empty_like(payload.flat)
        _take_chunk(parameters, 0, _checked(0, response.data, response.crc32c), pb.ENCODING_F32)
        return response, parameters

    def pull(self, request: pb.PullRequest, flat: Float32s, timeout_s: float) -> tuple[pb.Header, pb.ParametersHeader]:
        """See Transport.pull."""

        def receive() -> tuple[pb.Header, pb.ParametersHeader]:
            responses = self._method("Pull")(request.SerializeToString(), timeout=timeout_s)
            first = next(responses)
            parameters, received = first.parameters, 0
            if parameters.location or (parameters.payload_bytes == 0 and request.HasField("known_version")):
                return first.header, parameters
            expected_bytes = payload_bytes(parameters.encoding, flat.size)
            if parameters.payload_bytes != expected_bytes:
                raise CallLost(f"expected {expected_bytes} bytes, the server has {parameters.payload_bytes}")
            for response in responses:
                data = _checked(received, response.data, response.crc32c)
                received = _take_chunk(flat, received, data, parameters.encoding)
            if received != expected_bytes:
                raise CallLost(f"expected {expected_bytes} bytes, got {received}")
            return first.header, parameters

        return self._attempt(receive)

    def close(self) -> None:
        """See Transport.close. In a forked child the parent's channel is left alone."""
        self._closed = True
        if self._local is not None:
            self._local.close()
        if self._channel is not None and self._pid == os.getpid():
            self._channel.close()
        self._channel = None
        self._methods.clear()

    def _attempt(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise failure_of(error.code(), error.details() or "", _status_of(error)) from error

    def _check_process(self) -> None:
        if self._channel is not None and self._pid != os.getpid():
            raise ForkedWorker("this worker was connected before the process forked: connect again in the child")

    def _method(self, name: str) -> Callable[..., Any]:
        if self._channel is None:
            if self._closed:  # a heartbeat must not open it anew
                raise CallLost("this connection was closed")
            options = (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(self._address) else _OPTIONS
            self._pid = os.getpid()
            self._channel = grpc.insecure_channel(self._address, options=options)
        self._check_process()
        if name not in self._methods:
            rpc = self._rpcs[name]
            kinds = {(False, False): "unary_unary", (True, False): "stream_unary", (False, True): "unary_stream"}
            make = getattr(self._channel, kinds[rpc.client_streaming, rpc.server_streaming])
            path = f"/{rpc.containing_service.full_name}/{name}"
            self._methods[name] = make(path, None, GetMessageClass(rpc.output_type).FromString)
        return self._methods[name]


def _frames(first: Message, frame_class: Callable[..., Message], payload: Payload) -> Iterator[bytes]:
    """The header, then the payload in chunks; gRPC stops asking for more once the server has answered."""
    yield first.SerializeToString()
    offset_bytes = 0
    for chunk in payload.chunks(CHUNK_BYTES):
        yield with_data(frame_class(offset_bytes=offset_bytes, crc32c=crc32c(chunk)), chunk)
        offset_bytes += chunk.nbytes


def _checked(offset_bytes: int, data: NDArray[np.uint8] | bytes, checksum: int) -> NDArray[np.uint8]:
    if crc32c(data) != checksum:
        raise CallLost(f"the chunk at byte {offset_bytes} is damaged")
    return np.frombuffer(data, np.uint8)


def _take_chunk(target: Float32s, offset_bytes: int, data: NDArray[np.uint8], encoding: int) -> int:
    """Write a checked chunk into place. Returns the offset behind it."""
    item_bytes = UNIT_BYTES[encoding]
    start, stop = offset_bytes // item_bytes, (offset_bytes + data.size) // item_bytes
    if stop > target.size or data.size % item_bytes:
        raise CallLost(f"the chunk at byte {offset_bytes} does not fit")
    if encoding == pb.ENCODING_BF16:
        bits = target[start:stop].view(np.uint32)
        bits[:] = data.view(np.uint16)
        np.left_shift(bits, 16, out=bits)
    else:
        target[start:stop].view(np.uint8)[:] = data
    return offset_bytes + data.size


def _status_of(error: grpc.RpcError) -> bytes:
    trailer: Any = error.trailing_metadata() or ()  # the stubs miss that its entries are pairs
    return next((value for key, value in trailer if key == _DETAILS_KEY), b"")
