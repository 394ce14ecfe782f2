"""The unix socket of this server: hands shared memory over to workers, as file descriptors, and takes their calls.

The socket has no file, so nothing is left behind; containers that share a network, as those of a pod do, reach it
without a shared folder. Its name and the tokens are random and told over gRPC alone, to members of a job.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import socket
import struct
import time
import weakref
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from optimd_server.runtime.reports import Reports
from optimd_server.service.local import TOKEN_BYTES, LocalServer
from optimd_server.state import SharedSegment

log = logging.getLogger(__name__)

TOKEN_S = 10.0
# A token comes with the connection, within a few milliseconds.
SILENT_S = 2.0
# Connections in hand, and of them such of another user that have sent no token; more are closed at once.
CONNECTIONS_MAX = 1024
SILENT_FOREIGN_MAX = 64
ACCEPT_PAUSE_S = 0.1
_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    """The process on the other end."""

    pid: int
    uid: int


class Offer(NamedTuple):
    """Memory that waits to be handed over; `own`: that of it whose descriptors are closed then."""

    whose: Hashable
    segments: Sequence[weakref.ref[SharedSegment]]
    own: Sequence[weakref.ref[SharedSegment]]


class Handover:
    """Use it on the event loop alone. `name` is the socket's, without the zero byte; empty until start().

    local: what takes calls.
    """

    def __init__(self, local: LocalServer) -> None:
        self.name = ""
        self.local = local
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._offers: dict[bytes, Offer] = {}
        self._tokens: dict[Hashable, bytes] = {}
        self._serving: set[asyncio.Task[None]] = set()
        # Connections that have sent no token yet, by the user who made them.
        self._silent: Counter[int] = Counter()
        self._reports = Reports(log, time.monotonic)

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

    def offer(self, whose: Hashable, segments: Sequence[SharedSegment], lent: Sequence[SharedSegment]) -> bytes:
        """A token for these descriptors, in this order. Those that are not in `lent` are closed once handed over.

        Whose it is has one at a time. An offer keeps nothing alive: memory that is forgotten is freed at once.
        """
        self._withdraw(self._tokens.get(whose, b""))
        token = secrets.token_bytes(TOKEN_BYTES)
        own = [segment for segment in segments if segment not in lent]
        self._tokens[whose] = token
        self._offers[token] = Offer(
            whose, [weakref.ref(each) for each in segments], [weakref.ref(each) for each in own]
        )
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
        """Harmless if there is no such offer."""
        offer = self._offers.pop(token, None)
        if offer is None:
            return
        del self._tokens[offer.whose]
        for segment in offer.own:
            alive = segment()
            if alive is not None:
                alive.close_fd()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors left, for now
                self._reports.say(logging.WARNING, "accept", "shared memory cannot be handed over: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            peer = _peer_of(connection)
            is_foreign = peer.uid != os.getuid()
            if len(self._serving) >= CONNECTIONS_MAX or (is_foreign and self._silent[peer.uid] >= SILENT_FOREIGN_MAX):
                text = "connections of user %d on the unix socket are closed: too many that say nothing"
                self._reports.say(logging.WARNING, ("full", peer.uid), text, peer.uid)
                connection.close()
                continue
            self._silent[peer.uid] += 1
            task = loop.create_task(self._serve(connection, peer))
            self._serving.add(task)
            task.add_done_callback(functools.partial(self._served, peer.uid))

    def _served(self, uid: int, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._silent[uid] -= 1
        if not self._silent[uid]:
            del self._silent[uid]

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        """Whoever sends no token that is good, or sends it too slowly, gets the end of the stream."""
        try:
            async with asyncio.timeout(SILENT_S):
                token = await self._token_of(connection)
            if secrets.compare_digest(token, self.local.token):
                await self.local.take(connection.dup())
            elif token in self._offers:
                self._hand_over(token, connection)
            elif token:  # who sends none has looked whether this socket can be reached, as every worker does
                self._report(peer, "no token that is good")
        except TimeoutError:
            self._report(peer, f"nothing in {SILENT_S:g} s")
        except OSError as error:
            log.info("nothing was handed over: %r", error)
        finally:
            connection.close()

    def _report(self, peer: Peer, what: str) -> None:
        text = "process %d of user %d connected to the unix socket and sent %s"
        self._reports.say(logging.WARNING, ("silent", peer.uid), text, peer.pid, peer.uid, what)

    def _hand_over(self, token: bytes, connection: socket.socket) -> None:
        alive = [segment() for segment in self._offers[token].segments]
        descriptors = [segment.fd for segment in alive if segment is not None and segment.fd >= 0]
        try:
            if len(descriptors) == len(alive):
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


def _peer_of(connection: socket.socket) -> Peer:
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)
