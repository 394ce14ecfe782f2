"""A TCP proxy between gRPC clients and one server, on loopback, whose faults are switched while it runs."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable

READ_BYTES = 1 << 18
FRAME_HEADER_BYTES = 9
# DATA, HEADERS, RST_STREAM, CONTINUATION.
ANSWER_FRAMES = (0, 1, 3, 9)
HEADERS_FRAME, END_STREAM = 1, 1


class Proxy:
    """Forwards every connection to `target` (HOST:PORT). `address` is its own.

    bytes_per_s: how fast each direction of a connection is, 0 for no limit.
    hold_answers: no answer reaches a client; flow control still does, so that the bytes of open calls go on. Cut the
    connections before it is switched off again.
    lost_answers: this share of the answers is lost, and with each its connection. answers_lost: how many were.
    sent_bytes: forwarded from clients to the server, over all connections.
    """

    def __init__(self, target: str, bytes_per_s: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.bytes_per_s = bytes_per_s
        self.hold_answers = False
        self.lost_answers = 0.0
        self.answers_lost = 0
        self._dice = random.Random(0)
        self.sent_bytes = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Break every open connection. New ones are welcome."""
        with self._changed:
            sockets = list(self._sockets)
        for end in sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def wait_sent(self, total_bytes: int, timeout_s: float = 30.0) -> None:
        """Return once sent_bytes is at least total_bytes. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.sent_bytes >= total_bytes, timeout_s):
                raise TimeoutError(f"expected {total_bytes} bytes from clients in {timeout_s} s, got {self.sent_bytes}")

    def close(self) -> None:
        """Break everything and wait for the threads."""
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)  # accepts no more: what is open now is all there will be
        self.cut()
        for thread in self._threads[1:]:
            thread.join(10)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="test-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._sockets |= {client, server}
            self._start(self._pump, client, server, True)
            self._start(self._pump, server, client, False)

    def _pump(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        """Forward one direction until either end breaks; then break both, so that neither side waits for a ghost."""
        try:
            if from_client:
                self._forward_calls(source, target)
            else:
                self._forward_answers(source, target)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            with self._changed:
                self._sockets.discard(source)
            source.close()

    def _take_time(self, data: bytes) -> None:
        if self.bytes_per_s:
            self._closed.wait(len(data) / self.bytes_per_s)

    def _loses(self, frame: int, flags: int) -> bool:
        """Whether an answer that begins with this frame is lost."""
        begins = frame == HEADERS_FRAME and not flags & END_STREAM
        return begins and self._dice.random() < self.lost_answers

    def _forward_calls(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(READ_BYTES):
            self._take_time(data)
            target.sendall(data)
            with self._changed:
                self.sent_bytes += len(data)
                self._changed.notify_all()

    def _forward_answers(self, source: socket.socket, target: socket.socket) -> None:
        """Frame by frame (RFC 9113 section 4.1): length in 3 bytes, type in 1, flags and stream in 5, then the rest."""
        pending = b""
        while data := source.recv(READ_BYTES):
            self._take_time(data)
            pending += data
            passed, start = [], 0
            while len(pending) - start >= FRAME_HEADER_BYTES:
                stop = start + FRAME_HEADER_BYTES + int.from_bytes(pending[start : start + 3])
                if stop > len(pending):
                    break
                if self._loses(pending[start + 3], pending[start + 4]):
                    self.answers_lost += 1
                    return
                if not (self.hold_answers and pending[start + 3] in ANSWER_FRAMES):
                    passed.append(pending[start:stop])
                start = stop
            pending = pending[start:]
            target.sendall(b"".join(passed))
