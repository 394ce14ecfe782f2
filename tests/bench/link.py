"""A link of limited rate between clients and a server, in a child: `python -m tests.bench.link HOST:PORT RATE`."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time

READ_BYTES = 1 << 16


class Link:
    """Forwards to `target`, at most bytes_per_s each way. `address` is its own."""

    def __init__(self, target: str, bytes_per_s: float) -> None:
        command = [sys.executable, "-m", __name__, target, str(bytes_per_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = f"127.0.0.1:{self._process.stdout.readline().strip()}"

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)


def _pump(source: socket.socket, target: socket.socket, bytes_per_s: float) -> None:
    """Forward until either end breaks. What is behind is sent at once; nothing is sent ahead of its time."""
    due_s = time.monotonic()
    with contextlib.suppress(OSError):
        while data := source.recv(READ_BYTES):
            target.sendall(data)
            now_s = time.monotonic()
            due_s = max(due_s, now_s - 0.01) + len(data) / bytes_per_s
            if due_s > now_s:
                time.sleep(due_s - now_s)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, host: str, port: int, bytes_per_s: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, port))
        for source, target in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(source, target, bytes_per_s), daemon=True).start()


def _main(target: str, bytes_per_s: float) -> None:
    host, _, port = target.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, host, int(port), bytes_per_s), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
