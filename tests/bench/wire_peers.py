"""Servers that take bytes over gRPC and do nothing else, in child processes: `python -m tests.bench.wire_peers KIND`.

"ceiling": what grpcio's streams can carry: nobody parses anything, a 16-byte header is joined to each chunk.
"threaded": the same on the threaded server. "plain": one unary call with one protobuf message, as most people write it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from optimdpb.v1 import optimd_pb2 as pb

CHUNK_BYTES = 1 << 20
HEADER = bytes(16)
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Peer:
    """A server of that kind; push() sends one gradient there."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED)
        self._stream = self._channel.stream_unary("/peer/Push", None, None)
        self._unary = self._channel.unary_unary(
            "/peer/Push", pb.StepRequest.SerializeToString, pb.StepResponse.FromString
        )
        self._is_plain = kind == "plain"

    def push(self, gradient: NDArray[np.float32]) -> None:
        """There, and an empty answer back."""
        if self._is_plain:
            self._unary(pb.StepRequest(data=gradient.tobytes()))
        else:
            self._stream(_chunks(gradient))

    def close(self) -> None:
        """End the child."""
        self._channel.close()
        self._process.communicate(timeout=30)


def _chunks(gradient: NDArray[np.float32]) -> Iterator[bytes]:
    data = gradient.view(np.uint8)
    for start in range(0, data.size, CHUNK_BYTES):
        yield b"".join((HEADER, data[start : start + CHUNK_BYTES].data))


async def _serve_ceiling() -> None:
    async def push(chunks: Any, _context: object) -> bytes:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
        return b""

    server = grpc.aio.server()
    handler = grpc.stream_unary_rpc_method_handler(push, None, None)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peer", {"Push": handler})])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


def _serve_threaded(handler: Any) -> None:
    server = grpc.server(ThreadPoolExecutor(4), options=UNLIMITED)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("peer", {"Push": handler})])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


def _take_stream(chunks: Iterator[bytes], _context: object) -> bytes:
    size = 0
    for chunk in chunks:
        size += len(chunk)
    return b""


def _take_message(request: pb.StepRequest, _context: object) -> pb.StepResponse:
    gradient = np.frombuffer(request.data, np.float32)
    return pb.StepResponse(finished=gradient.size == 0)


KINDS: dict[str, Callable[[], None]] = {
    "ceiling": lambda: asyncio.run(_serve_ceiling()),
    "threaded": lambda: _serve_threaded(grpc.stream_unary_rpc_method_handler(_take_stream, None, None)),
    "plain": lambda: _serve_threaded(
        grpc.unary_unary_rpc_method_handler(_take_message, pb.StepRequest.FromString, pb.StepResponse.SerializeToString)
    ),
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
