"""Unary calls without gRPC, from workers on this machine: one after the other on a connected unix socket.

A call costs a fifth of gRPC's. The methods are those that gRPC serves, so outcomes and errors are the same. The frames
are described in the contract at LocalCalls.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Mapping

from optimdpb import local
from optimdpb.errors import Refused

from optimd_server.service.dispatch import Call
from optimd_server.service.errors import status_of

TOKEN_BYTES = 16
# Connections beyond them are closed at once; their workers go on by gRPC.
CONNECTIONS_MAX = 1024
# How long a frame may be on its way, and the last answer after the end.
FRAME_S_MAX = 10.0
# Of frames that are on their way, all together; whose part comes on top is closed.
UNFINISHED_BYTES_MAX = 128 << 20


class LocalServer:
    """Answers on connections that it is given. `token`: what a client must send to get that far; `calls`: by name.

    Use it on the event loop alone.
    """

    def __init__(self) -> None:
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.calls: Mapping[str, Call] = {}
        self._connections: set[_Connection] = set()
        self.unfinished_bytes = 0

    async def take(self, connection: socket.socket) -> None:
        """Serve it from now on; it is closed when it ends."""
        if len(self._connections) >= CONNECTIONS_MAX:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: _Connection(self, self._connections), connection)

    async def close(self, wait_s: float) -> None:
        """Take no more calls, let those in hand answer, up to wait_s, then end every connection."""
        connections = list(self._connections)
        for connection in connections:
            connection.draining = True
        tasks = [connection.task for connection in connections if connection.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)
        for connection in connections:
            connection.end()


class _Connection(asyncio.Protocol):
    """`task`: the call in hand. draining: it is the last."""

    def __init__(self, server: LocalServer, connections: set[_Connection]) -> None:
        self._server = server
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._deadline: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)
        transport.write(b"\0")

    def connection_lost(self, _error: Exception | None) -> None:
        """The client has given up, or is gone: so is its call."""
        self._connections.discard(self)
        self._taken()
        if self._deadline is not None:
            self._deadline.cancel()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._server.unfinished_bytes += len(data)
        size = local.size_of(self._received)
        arrived = size is not None and len(self._received) >= local.SIZE_BYTES + size
        if self._is_foul(size) or self._server.unfinished_bytes > UNFINISHED_BYTES_MAX:
            self._abort()
        elif not arrived:
            self._wait_for_rest()
        elif not self.draining:
            request = self._taken()
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            self.task = asyncio.get_running_loop().create_task(self._answer(request))

    def _taken(self) -> bytearray:
        """What has come so far; it is on its way no more."""
        received, self._received = self._received, bytearray()
        self._server.unfinished_bytes -= len(received)
        return received

    def _is_foul(self, size: int | None) -> bool:
        """A call before the last one is answered and read, or one that is too large, or followed by more."""
        assert self._transport is not None
        if self.task is not None or self._transport.get_write_buffer_size():
            return True
        return size is not None and (size > local.BYTES_MAX or len(self._received) > local.SIZE_BYTES + size)

    def _wait_for_rest(self) -> None:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(FRAME_S_MAX, self._abort)

    def end(self) -> None:
        """Close it once what was written is out."""
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(FRAME_S_MAX, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _answer(self, request: bytearray) -> None:
        try:
            response = await self._call(request)
        finally:
            self.task = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(response))

    async def _call(self, request: bytearray) -> list[bytes]:
        name, message = local.request_of(request)
        call = self._server.calls.get(name)
        try:
            if call is None:
                text = f"expected a unary method that is served on this socket, got {name!r}: call it over gRPC"
                raise Refused("NOT_SERVED", text, feature=f"method {name}")
            return local.response(await call(message))
        except Refused as error:
            return local.refusal(status_of(error)[1].SerializeToString())
