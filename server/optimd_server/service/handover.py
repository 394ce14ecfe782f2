"""The unix socket of this server: hands shared memory over to workers, as file descriptors, and takes their calls.

The socket has no file, so nothing is left behind; containers that share a network, as those of a pod do, reach it
without a shared folder. Its name and the tokens are random and told over gRPC alone, to members of a job.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Sequence

from optimd_server.service.local import TOKEN_BYTES, LocalServer
from optimd_server.state import SharedSegment

log = logging.getLogger(__name__)

TOKEN_S = 10.0
# Connections in hand; more are closed at once. Each takes a few milliseconds.
CONNECTIONS_MAX = 1024
ACCEPT_PAUSE_S = 0.1


class Handover:
    """Use it on the event loop alone. `name` is the socket's, without the zero byte; empty until start().

    local: what takes calls.
    """

    def __init__(self, local: LocalServer) -> None:
        self.name = ""
        self.local = local
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._offers: dict[bytes, tuple[list[int], Sequence[SharedSegment]]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen. Where the system has no such sockets workers do without."""
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            name = f"optimd-{secrets.token_hex(16)}"
            listener.bind(f"\0{name}")
            listener.listen(CONNECTIONS_MAX)
        except OSError as error:
            log.warning("no shared memory: cannot listen on a unix socket: %s", error)
            return
        self.name, self._listener = name, listener
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    def offer(self, segments: Sequence[SharedSegment], lent: Sequence[SharedSegment]) -> bytes:
        """A token for these descriptors, in this order. Those that are not in `lent` are closed once handed over.

        The segments' descriptors must be open.
        """
        token = secrets.token_bytes(TOKEN_BYTES)
        own = [segment for segment in segments if segment not in lent]
        self._offers[token] = [segment.fd for segment in segments], own
        asyncio.get_running_loop().call_later(TOKEN_S, self._withdraw, token)
        return token

    async def close(self, wait_s: float) -> None:
        """Hand nothing over any more, and take no calls; those in hand have up to wait_s to answer."""
        if self._accepting is not None:
            tasks = [self._accepting, *self._serving]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        await self.local.close(wait_s)
        for token in list(self._offers):
            self._withdraw(token)

    def _withdraw(self, token: bytes) -> None:
        _, own = self._offers.pop(token, ([], ()))
        for segment in own:
            segment.close_fd()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors left, for now
                log.warning("shared memory cannot be handed over: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._serving) >= CONNECTIONS_MAX:
                connection.close()
                continue
            task = loop.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        """Whoever sends no token that is good, or sends it too slowly, gets the end of the stream."""
        try:
            async with asyncio.timeout(TOKEN_S):
                token = await self._token_of(connection)
            if secrets.compare_digest(token, self.local.token):
                await self.local.take(connection.dup())
            elif token in self._offers:
                self._hand_over(token, connection)
        except OSError as error:  # TimeoutError is one
            log.info("nothing was handed over: %r", error)
        finally:
            connection.close()

    def _hand_over(self, token: bytes, connection: socket.socket) -> None:
        descriptors, _ = self._offers[token]
        try:
            socket.send_fds(connection, [b"\0"], descriptors)
        finally:
            self._withdraw(token)

    async def _token_of(self, connection: socket.socket) -> bytes:
        loop, token = asyncio.get_running_loop(), b""
        while len(token) < TOKEN_BYTES:
            data = await loop.sock_recv(connection, TOKEN_BYTES - len(token))
            if not data:
                break
            token += data
        return token
