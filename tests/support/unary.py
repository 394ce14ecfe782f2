"""A gRPC server whose one method does nothing: what a call costs before anybody does anything."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import grpc

METHOD = "/empty/Call"


class EmptyServer:
    """An asyncio server, as optimd's is, in a child process; call() is one empty unary call."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self._process.stdout.readline().strip()}")
        self._call = self._channel.unary_unary(METHOD, None, None)

    def __enter__(self) -> EmptyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.communicate(timeout=30)

    def call(self) -> bytes:
        """Nothing, there and back."""
        answer: bytes = self._call(b"", timeout=30)
        return answer


async def _serve() -> None:
    async def nothing(_request: bytes, _context: object) -> bytes:
        return b""

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(nothing, None, None)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("empty", {"Call": handler})])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
