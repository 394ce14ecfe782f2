"""Pushes over TCP on this machine: optimd's streams against what grpcio can carry, and against plain protobuf."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import numpy as np
import optimd
from numpy.typing import NDArray

from tests.bench.pairs import Claim, Figure, turns
from tests.bench.wire_peers import Peer
from tests.support.servers import ServerProcess

ELEMENTS = 25_000_000
ROUNDS = 9
Float32s = NDArray[np.float32]


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Ratios to the ceiling."""
    gradient = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    peers = {kind: Peer(kind) for kind in ("ceiling", "threaded", "plain")}
    try:
        with ServerProcess("--no-shared-memory") as server, _RawTcp() as raw:
            moved = pusher(server.address, "moved", gradient)
            trained = pusher(server.address, "trained", gradient, frozen=False)
            target = np.empty_like(gradient)
            found = turns(
                {
                    "grpcio stream, bytes, asyncio": lambda: peers["ceiling"].push(gradient),
                    "grpcio stream, bytes, threads": lambda: peers["threaded"].push(gradient),
                    "plain protobuf, unary": lambda: peers["plain"].push(gradient),
                    "optimd push, nothing to update": moved,
                    "optimd push, adam": trained,
                    "raw TCP": lambda: raw.send(gradient),
                    "memcpy": lambda: np.copyto(target, gradient),
                },
                ROUNDS,
            )
    finally:
        for peer in peers.values():
            peer.close()
    push = "optimd push, nothing to update"
    claims = [
        Claim("push / asyncio ceiling, throughput", found.ratio("grpcio stream, bytes, asyncio", push), 0.85, False),
        Claim("push / threaded ceiling, throughput", found.ratio("grpcio stream, bytes, threads", push), 0.85, False),
        Claim("push / plain protobuf, throughput", found.ratio("plain protobuf, unary", push), 3.0, False),
    ]
    return {f"push of {ELEMENTS:,} float32": [*found.figures(), *claims]}


def pusher(
    address: str, job: str, gradient: Float32s, *, frozen: bool = True, push_dtype: str = "float32"
) -> Callable[[], object]:
    """A push; of a job that has nothing to update if frozen."""
    worker = optimd.connect(address, job=job, worker="w0", push_dtype=push_dtype, timeout_s=300)
    groups = [optimd.Group("*", frozen=True)] if frozen else []
    start = {"w": np.zeros(gradient.size, np.float32)}
    worker.ensure_job(start, optimd.Adam(1e-3), optimd.Async(), groups=groups)
    worker.pull()
    for _ in range(2):
        buffers = worker.gradient_buffers()
        buffers["w"][...] = gradient
        worker.push(buffers)
    return lambda: worker.push(worker.gradient_buffers())


class _RawTcp:
    """A thread that reads what is sent, and answers one byte for each whole gradient."""

    def __enter__(self) -> _RawTcp:
        listener = socket.create_server(("127.0.0.1", 0))
        self._sender = socket.create_connection(listener.getsockname())
        self._reader, _ = listener.accept()
        listener.close()
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()

    def send(self, gradient: Float32s) -> None:
        self._sender.sendall(gradient.data)
        self._sender.recv(1)

    def _read(self) -> None:
        buffer, left = bytearray(1 << 20), ELEMENTS * 4
        while count := self._reader.recv_into(buffer, min(left, len(buffer))):
            left -= count
            if left == 0:
                self._reader.sendall(b".")
                left = ELEMENTS * 4
        self._reader.close()
