"""From the contract's descriptors to gRPC method handlers.

Requests arrive as bytes and are parsed here, so that garbage is answered like any other bad request; those with a
`data` field come as Framed. Responses may be messages or bytes that are already encoded. Methods of the contract
without a function answer NOT_SERVED.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from optimdpb.errors import NotServed, Refused
from optimdpb.frames import framed
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.runtime import ServerConfig
from optimd_server.runtime.reports import Reports
from optimd_server.service.errors import abort, shortened, unexpected
from optimd_server.service.messages import check_limit

log = logging.getLogger(__name__)

Context = Any
# One function per method: takes a request, or an iterator of requests; returns a response, or an iterator of responses.
Method = Callable[..., Any]
# From the bytes of a request to those of its response; raises Refused alone.
Call = Callable[[bytes], Awaitable[bytes]]


# They free room or keep what is there, and cost next to nothing: shedding them would turn overload into mass expiry.
NEVER_SHED = frozenset({"Heartbeat", "Leave"})


# What a line in the log says of a caller.
CALLER = ("job", "worker", "epoch", "seq")
# Of jobs that need not exist: whoever invents names has one line with all of them.
OF_NO_JOB = frozenset(
    {"UNKNOWN_JOB", "INVALID_NAME", "MALFORMED_REQUEST", "LIMIT_EXCEEDED", "INVALID_SPEC", "INVALID_LAYOUT"}
)
# Reasons that an operator may have to do something about.
SERIOUS = frozenset({"BACKLOG_FULL", "LIMIT_EXCEEDED", "PUSH_TOO_SLOW", "PULL_TOO_SLOW", "INTERNAL", "JOB_FAILED"})
LOGGED_BYTES_MAX = 500
# Of the call in hand: its message, or the one that has its header.
_request: ContextVar[Any] = ContextVar("_request")
# What a request may take beside the specification that it carries.
REQUEST_BYTES_BESIDE = 64 * 1024


class Gate:
    """Counts the calls in hand; above calls_max new ones are refused, not queued."""

    def __init__(self, config: ServerConfig) -> None:
        # False while the server starts.
        self.open = False
        self.calls_max = config.calls_max
        # How long a message of an answer may wait to be taken, and how long one of a stream may take to come.
        self.stream_out_s = config.pull_timeout_s
        self.stream_in_s = config.push_timeout_s
        self.request_bytes_max = config.spec_bytes_max + REQUEST_BYTES_BESIDE
        self.calls = 0
        self._reports = Reports(log, time.monotonic)

    def refused(self, name: str, error: Refused) -> None:
        """Say in the log which call was refused, and whose it was as far as it says."""
        message = _request.get(None)
        header = getattr(message, "header", message)
        said = [
            f"{field} {shortened(str(getattr(header, field)), 128)}" for field in CALLER if getattr(header, field, "")
        ]
        self._reports.say(
            logging.WARNING if error.reason in SERIOUS else logging.INFO,
            (error.reason, "" if error.reason in OF_NO_JOB else getattr(header, "job", "")[:128]),
            "%s refused, %s: %s (%s)",
            name,
            error.reason,
            shortened(str(error), LOGGED_BYTES_MAX),
            ", ".join(said) or "it names no job",
        )

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """For as long as one call takes. Raises Refused(STARTING_UP, BACKLOG_FULL)."""
        if not self.open:
            raise Refused("STARTING_UP", "the server compiles or restores: try again")
        if self.calls >= self.calls_max and name not in NEVER_SHED:
            message = f"expected at most calls_max = {self.calls_max} calls in hand, got one more: try again"
            raise Refused("BACKLOG_FULL", message, calls_max=self.calls_max)
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1


def unary_calls(service: str, methods: Mapping[str, Method], gate: Gate) -> dict[str, Call]:
    """What answers the served unary rpcs of one service, by name."""
    rpcs = pb.DESCRIPTOR.services_by_name[service].methods
    unary = [rpc for rpc in rpcs if not rpc.client_streaming and not rpc.server_streaming and rpc.name in methods]
    return {rpc.name: _answer(rpc.name, parser(rpc, gate), methods[rpc.name], gate) for rpc in unary}


def generic_handler(service: str, methods: Mapping[str, Method], gate: Gate) -> grpc.GenericRpcHandler:
    """Handlers of every rpc of one service of the contract, by its short name."""
    descriptor = pb.DESCRIPTOR.services_by_name[service]
    handlers = {rpc.name: _handler(rpc, methods.get(rpc.name), gate) for rpc in descriptor.methods}
    unknown = set(methods) - set(handlers)
    assert not unknown, f"{service} has no rpc {', '.join(sorted(unknown))}"
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _handler(rpc: Any, method: Method | None, gate: Gate) -> grpc.RpcMethodHandler[Any, Any]:
    parse = parser(rpc, gate)
    if rpc.client_streaming:
        handle = _aborting(_answer(rpc.name, _each(parse, gate), method, gate))
        return grpc.stream_unary_rpc_method_handler(handle, None, None)
    if rpc.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_stream_out(rpc.name, parse, method, gate), None, _encode)
    return grpc.unary_unary_rpc_method_handler(_aborting(_answer(rpc.name, parse, method, gate)), None, None)


def parser(rpc: Any, gate: Gate) -> Callable[[bytes], Any]:
    """From the bytes of a request of this rpc to what its function takes.

    Raises Refused(MALFORMED_REQUEST, LIMIT_EXCEEDED): protobuf makes fifty bytes of one that is full of small parts.
    """
    message_class = GetMessageClass(rpc.input_type)
    has_data = "data" in rpc.input_type.fields_by_name

    def parse(data: bytes) -> Any:
        if not has_data:
            check_limit("request_bytes_max", gate.request_bytes_max, len(data))
        try:
            if not has_data:
                request = message_class.FromString(data)
                _request.set(request)
                return request
            with_payload = framed(data, message_class)
            if with_payload.message.HasField("header"):
                _request.set(with_payload.message)
            return with_payload
        except DecodeError as error:
            name = rpc.input_type.name
            raise Refused("MALFORMED_REQUEST", f"expected a {name}, got bytes that are none", field=name) from error

    return parse


def _encode(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _aborting(call: Callable[[Any], Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
    """The same for gRPC."""

    async def handle(request: Any, context: Context) -> bytes:
        try:
            return await call(request)
        except Refused as error:
            await abort(context, error)

    return handle


def _answer(
    name: str, parse: Callable[[Any], Any], method: Method | None, gate: Gate
) -> Callable[[Any], Awaitable[bytes]]:
    """From a request, or a stream of them, to the one response."""

    async def answer(request: Any) -> bytes:
        try:
            if method is None:
                raise NotServed(f"method {name}")
            with gate.call(name):
                return _encode(await method(parse(request)))
        except Refused as error:
            gate.refused(name, error)
            raise
        except Exception as error:
            raise unexpected(error, name) from error

    return answer


def _each(parse: Callable[[bytes], Any], gate: Gate) -> Callable[[AsyncIterator[bytes]], AsyncIterator[Any]]:
    """Raises Refused(PUSH_TOO_SLOW) where the next message, or the end, does not come in time."""

    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        while True:
            try:
                async with asyncio.timeout(gate.stream_in_s):
                    request = await anext(requests, None)
            except TimeoutError as error:
                message = f"expected the next message, or the end, of the stream within {gate.stream_in_s:g} s"
                raise Refused("PUSH_TOO_SLOW", message) from error
            if request is None:
                return
            yield parse(request)

    return parsed


def _stream_out(
    name: str, parse: Callable[[bytes], Any], method: Method | None, gate: Gate
) -> Callable[..., Awaitable[None]]:
    async def handle(request: bytes, context: Context) -> None:
        try:
            if method is None:
                raise NotServed(f"method {name}")
            with gate.call(name):
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(gate.stream_out_s) as limit:
                    async for response in method(parse(request)):
                        await context.write(response)
                        limit.reschedule(loop.time() + gate.stream_out_s)
        except TimeoutError:
            message = f"expected each message to be taken within {gate.stream_out_s} s"
            slow = Refused("PULL_TOO_SLOW", message)
            gate.refused(name, slow)
            await abort(context, slow)
        except Refused as error:
            gate.refused(name, error)
            await abort(context, error)
        except Exception as error:
            await abort(context, unexpected(error, name))

    return handle
