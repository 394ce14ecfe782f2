"""Servers for tests: one in a child process, one in a thread of this process whose state can be looked at."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from optimd_server.optimizers.warmup import compile_kernels
from optimd_server.runtime import JobHost, Runtime, ServerConfig
from optimd_server.service import Service

T = TypeVar("T")


class ServerProcess:
    """`optimd serve` as a child on a loopback port, 0 for a free one; ends with its stdin. `address` is HOST:PORT.

    program: the module that is `optimd`, and what it takes before `serve`.
    """

    def __init__(self, *arguments: str, port: int = 0, program: tuple[str, ...] = ("optimd_server",)) -> None:
        command = [sys.executable, "-m", *program, "serve", "--listen", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(
            [*command, "--until-stdin-closes", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("serving on "), f"expected the serving line, got {line!r}"
        self.address = line.removeprefix("serving on ").strip()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def terminate(self) -> int:
        """SIGTERM and wait. Returns the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def stop(self) -> int:
        """Close its stdin and wait. Returns the exit status."""
        self.process.communicate(timeout=60)
        return self.process.returncode


class ThreadServer:
    """A whole server, gRPC included, on an event loop in a thread of this process."""

    def __init__(self, config: ServerConfig | None = None) -> None:
        compile_kernels()
        self._config = config or ServerConfig(threads=2)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-server")
        self._thread.start()
        try:
            self.runtime, self._service, port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        except BaseException:
            self._end()
            raise
        self.address = f"127.0.0.1:{port}"

    async def _start(self) -> tuple[Runtime, Service, int]:
        runtime = Runtime(self._config)
        try:
            service = Service(runtime)
        except BaseException:
            await runtime.close()
            raise
        try:
            return runtime, service, await service.start("127.0.0.1", 0)
        except BaseException:
            await service.stop()
            raise

    def __enter__(self) -> ThreadServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it in order, and the thread. Raises Refused if a job could not be saved; calling it twice is harmless."""
        if self._loop.is_closed():
            return
        try:
            asyncio.run_coroutine_threadsafe(self._service.stop(), self._loop).result(60)
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def on_loop(self, call: Callable[[], T]) -> T:
        """Run a function on the server's event loop, where its state may be read."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def cut_local(self) -> None:
        """Break every connection on the unix socket. New ones are welcome."""

        def cut() -> None:
            for connection in list(self._service._handover.local._connections):
                assert connection._transport is not None
                connection._transport.abort()

        self.on_loop(cut)

    def host(self, job: str) -> JobHost:
        """The run-time side of a job. Read it inside on_loop()."""
        return self.runtime.jobs[job]

    def vectors(self, job: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copies of a job's parameters (n,) and slots (slot, n)."""
        host = self.host(job)
        return self.on_loop(lambda: (host.shards.flat_parameters(), host.shards.flat_slots()))

    def last_seq(self, job: str, worker: str, epoch: int) -> int:
        """The last seq the job has consumed (or has pending) of an epoch; 0 for none."""
        host = self.host(job)

        def read() -> int:
            account = host.machine.state.ledger.find(worker, epoch)
            return account.last_seq if account else 0

        return self.on_loop(read)

    def state_hash(self, job: str) -> str:
        """SHA-256 over parameters, slots, version, rule count, state, clock and history of a job."""
        host = self.host(job)

        def digest() -> str:
            state = host.machine.state
            sha = hashlib.sha256()
            sha.update(host.shards.flat_parameters().tobytes())
            sha.update(host.shards.flat_slots().tobytes())
            sha.update(f"{state.lineage} {state.step} {state.rule_count} {host.state_name}".encode())
            sha.update(f"{state.clock.saved()} {state.history}".encode())
            return sha.hexdigest()

        return self.on_loop(digest)
