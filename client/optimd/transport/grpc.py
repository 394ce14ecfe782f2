"""The contract over gRPC, with its default message limits.

Methods are built from the contract's descriptors. The channel is made at the first call and belongs to the process that
made it: gRPC does not survive a fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray
from optimdpb.checksum import crc32c
from optimdpb.encodings import UNIT_BYTES, payload_bytes
from optimdpb.errors import ForkedWorker, Refused
from optimdpb.frames import with_data
from optimdpb.v1 import optimd_pb2 as pb

from optimd.address import is_loopback
from optimd.encoding import Float32, Payload
from optimd.transport.base import CallFailed, CallLost, NoServer
from optimd.transport.failures import failure_of
from optimd.transport.local import LocalConnection
from optimd.transport.moving import BUFFERED_BYTES_MAX, LINK_BYTES_PER_S_MIN, LOOK_S, Moving
from optimd.transport.nobody import why_nobody
from optimd.transport.shared import NotShared, SharedMemory, check_reachable, fetch

Float32s = NDArray[np.float32]
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
# How long a server may take to make shared memory.
OPEN_S_MAX = 10.0
FILLED_PER_S_MIN = 1e7
_RPCS = {rpc.name: rpc for service in pb.DESCRIPTOR.services_by_name.values() for rpc in service.methods}
_LOCK_COMPLAINTS = ("cannot release un-acquired lock", "release unlocked lock")
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
        # Whether a server of optimd has ever answered here.
        self._heard = False
        self.on_new_link: Callable[[], Callable[[], None] | None] = lambda: None
        self._link: _Link | None = None
        # Threads that are in a call, or were cut off in one, and over which link.
        self._calling: dict[int, _Link] = {}
        self._local: LocalConnection | None = None
        self._moving: Moving | None = None

    def call(self, method: str, request: Message, timeout_s: float) -> Any:
        """See Transport.call."""
        return self._attempt(lambda link: link.method(method)(request.SerializeToString(), timeout=timeout_s))

    def upload(self, header: pb.UploadHeader, flat: Float32s, timeout_s: float) -> pb.UploadParametersResponse:
        """See Transport.upload."""
        first, payload = pb.UploadParametersRequest(header=header), Payload(flat, Float32())
        response: pb.UploadParametersResponse = self._stream(
            "UploadParameters", first, pb.UploadParametersRequest, payload, timeout_s
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
    def moving(self) -> str:
        """See Transport.moving."""
        return "" if self._moving is None else self._moving.words

    @property
    def is_local(self) -> bool:
        """See Transport.is_local."""
        return self._local is not None and self._local.is_free

    def open_local(self, offer: pb.LocalCalls) -> None:
        """See Transport.open_local."""
        if self._local is not None:
            self._local.close()
        self._local = LocalConnection(offer)

    def push(self, header: pb.PushHeader, payload: Payload, timeout_s: float) -> pb.PushResponse:
        """See Transport.push."""
        first = pb.PushRequest(header=header)
        response: pb.PushResponse
        if header.shared_buffer:
            frames = iter((first.SerializeToString(),))
            response = self._attempt(lambda link: link.method("Push")(frames, timeout=timeout_s))
        else:
            response = self._stream("Push", first, pb.PushRequest, payload, timeout_s)
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
        if self._local is not None and self._local.is_free:
            answer = self._local.call("Step", request, timeout_s)
            try:
                response = pb.StepResponse.FromString(answer)
            except DecodeError as error:
                raise CallLost(f"expected a StepResponse, got bytes that are none: {error}") from error
        else:
            response = self._attempt(lambda link: link.method("Step")(request, timeout=timeout_s))
        if not response.HasField("parameters") or response.parameters.location:
            return response, None
        parameters = np.empty_like(payload.flat)
        _take_chunk(parameters, 0, _checked(0, response.data, response.crc32c), pb.ENCODING_F32)
        return response, parameters

    def pull(self, request: pb.PullRequest, flat: Float32s, timeout_s: float) -> tuple[pb.Header, pb.ParametersHeader]:
        """See Transport.pull."""

        moving = self._moving = Moving(flat.nbytes, timeout_s, is_sending=False)
        deadline_s = _deadline_s(flat.nbytes, timeout_s)

        def receive(link: _Link) -> tuple[pb.Header, pb.ParametersHeader]:
            responses = link.method("Pull")(request.SerializeToString(), timeout=deadline_s)
            try:
                if deadline_s is None:
                    moving.watch(responses.cancel)
                return _received(responses, request, flat, moving)
            finally:
                moving.end()
                responses.cancel()  # what was cut off comes on otherwise; harmless at the end

        return self._attempt(receive, moving)

    def _stream(
        self, method: str, first: Message, frame_class: Callable[..., Message], payload: Payload, timeout_s: float
    ) -> Any:
        """Send a payload and take the one answer."""
        moving = self._moving = Moving(payload.nbytes, timeout_s, is_sending=True)
        deadline_s = _deadline_s(payload.nbytes, timeout_s)

        def exchange(link: _Link) -> Any:
            rpc, frames = link.method(method), _frames(first, frame_class, payload, moving)
            try:
                if deadline_s is None:
                    return self._watched(rpc.future(frames), method, moving)
                return rpc(frames, timeout=deadline_s)
            finally:
                moving.end()

        return self._attempt(exchange, moving)

    def _watched(self, call: Any, method: str, moving: Moving) -> Any:
        """The answer of a call that may take as long as its transfer moves."""
        try:
            while True:
                try:
                    return call.result(timeout=LOOK_S)
                except grpc.FutureTimeoutError:
                    if moving.stands_still:
                        raise CallLost(f"{method} stands still for more than {moving.stall_s:g} s") from None
        finally:
            call.cancel()  # nothing of it may go out any more; harmless at the end

    def close(self) -> None:
        """See Transport.close. In a forked child the parent's channel is left alone."""
        self._closed = True
        if self._local is not None:
            self._local.close()
        link, self._link = self._link, None
        if link is not None and link.pid == os.getpid():
            if link in self._calling.values():
                link.abandon()
            else:
                link.channel.close()

    def _attempt(self, call: Callable[[_Link], T], moving: Moving | None = None) -> T:
        me = threading.get_ident()
        link = self._linked(me)
        self._calling[me] = link  # an interrupt leaves it there
        try:
            answer = call(link)
        except grpc.RpcError as error:
            failure = self._failure_of(error)
            error.__traceback__ = None  # the call is its own error: its frames would hold it, and all above, in a cycle
        except grpc.FutureCancelledError:
            failure = CallLost("the call was cancelled")
        except CallLost as error:
            failure = error
        except ValueError as error:  # gRPC's word for a channel that another thread closed meanwhile
            if not self._closed:
                raise
            failure = CallLost(str(error))
        except RuntimeError as error:
            # An interrupt in a wait of gRPC's: Python then releases a lock that it has not got back.
            if str(error) in _LOCK_COMPLAINTS and error.__context__ is not None:
                raise error.__context__ from None
            raise
        else:
            self._calling.pop(me, None)
            self._heard = True
            return answer
        self._calling.pop(me, None)
        if isinstance(failure, CallLost) and moving is not None:
            failure.moved = moving.moved
        try:
            raise failure
        finally:
            del failure

    def _failure_of(self, error: grpc.RpcError) -> Refused | CallFailed:
        code, details, status = error.code(), error.details() or "", _status_of(error)
        self._heard = self._heard or bool(status)
        if self._heard or code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
            return failure_of(code, details, status)
        text, is_certain = why_nobody(self._address, code, details)
        return NoServer(text) if is_certain else CallLost(text)

    def _check_process(self) -> None:
        if self._link is not None and self._link.pid != os.getpid():
            raise ForkedWorker("this worker was connected before the process forked: connect again in the child")

    def _linked(self, me: int) -> _Link:
        """The link of now; never one on which this thread was cut off in a call: gRPC may hold its locks for ever."""
        self._check_process()
        link = self._link
        if link is not None and self._calling.get(me) is link:
            self._link = None
            link.abandon()
            link = None
            renew = self.on_new_link()
            if renew is not None:
                renew()
        if link is None:
            if self._closed:  # a heartbeat must not open it anew
                raise NoServer("this connection was closed")
            link = self._link = _Link(self._address)
        return link


class _Link:
    """One channel, and its methods as they are asked for."""

    def __init__(self, address: str) -> None:
        options = (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(address) else _OPTIONS
        self.pid = os.getpid()
        self.channel = grpc.insecure_channel(address, options=options)
        self._methods: dict[str, Callable[..., Any]] = {}

    def method(self, name: str) -> Any:
        """What makes calls of an rpc."""
        if name not in self._methods:
            rpc = _RPCS[name]
            kinds = {(False, False): "unary_unary", (True, False): "stream_unary", (False, True): "unary_stream"}
            make = getattr(self.channel, kinds[rpc.client_streaming, rpc.server_streaming])
            path = f"/{rpc.containing_service.full_name}/{name}"
            self._methods[name] = make(path, None, GetMessageClass(rpc.output_type).FromString)
        return self._methods[name]

    def abandon(self) -> None:
        """Close the channel without waiting for that: it may take for ever."""
        threading.Thread(target=self.channel.close, name="optimd-abandoned", daemon=True).start()


def _deadline_s(size_bytes: int, timeout_s: float) -> float | None:
    """None: it is watched instead, which costs a thread or a future; too much where a deadline says nearly the same."""
    return timeout_s + size_bytes / LINK_BYTES_PER_S_MIN if size_bytes <= BUFFERED_BYTES_MAX else None


def _frames(first: Message, frame_class: Callable[..., Message], payload: Payload, moving: Moving) -> Iterator[bytes]:
    """The header, then the payload in chunks; gRPC stops asking for more once the server has answered."""
    yield first.SerializeToString()
    offset_bytes = 0
    for chunk in payload.chunks(CHUNK_BYTES):
        if moving.is_over:
            return
        yield with_data(frame_class(offset_bytes=offset_bytes, crc32c=crc32c(chunk)), chunk)
        offset_bytes += chunk.nbytes
        moving.on(chunk.nbytes)


def _received(
    responses: Iterator[pb.PullResponse], request: pb.PullRequest, flat: Float32s, moving: Moving
) -> tuple[pb.Header, pb.ParametersHeader]:
    """Take the parameters out of a stream."""
    first = next(responses)
    parameters, received = first.parameters, 0
    if parameters.location or (parameters.payload_bytes == 0 and request.HasField("known_version")):
        return first.header, parameters
    expected_bytes = payload_bytes(parameters.encoding, flat.size)
    if parameters.payload_bytes != expected_bytes:
        raise CallLost(f"expected {expected_bytes} bytes, the server has {parameters.payload_bytes}")
    for response in responses:
        data = _checked(received, response.data, response.crc32c)
        moving.on(data.size)
        received = _take_chunk(flat, received, data, parameters.encoding)
    if received != expected_bytes:
        raise CallLost(f"expected {expected_bytes} bytes, got {received}")
    return first.header, parameters


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
