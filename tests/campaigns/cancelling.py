"""A call of the server that is cancelled at one of its suspensions, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimd_server.runtime import JobHost, Runtime, ServerConfig
from optimd_server.runtime.shards import ShardGroup
from optimd_server.service import dispatch
from optimd_server.service.changes import ChangeService
from optimd_server.service.handover import Handover
from optimd_server.service.jobs import JobService
from optimd_server.service.local import LocalServer
from optimd_server.service.payloads import PayloadService
from optimd_server.service.workers import WorkerService
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import SGDM, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import push_header, push_messages, upload_messages

Float32s = NDArray[np.float32]
LAYOUT = Layout((Tensor("w", (600,)), Tensor("b", (40,))))
START = np.linspace(-1.0, 1.0, LAYOUT.elements, dtype=np.float32)
CHUNK_BYTES = 1024
QUIET_S_MAX = 10.0
# Turns of the event loop that a companion of the call waits, so that the call comes first.
LATER_TURNS = 60
# How long reading on a thread takes at least, so that others have the time to come in between.
READ_S = 0.02

# When the call is cancelled: as it suspends; once what it waits for is there and before it goes on; twice, at this
# suspension and the next.
MODES = ("at once", "when done", "twice")


class Driven(collections.abc.Coroutine[Any, Any, Any]):
    """A coroutine whose task is cancelled at its suspension number `at`, from 1; 0 for never. Counts them."""

    def __init__(self, inner: Coroutine[Any, Any, Any], at: int, mode: str) -> None:
        self._inner = inner
        self._at = at
        self._mode = mode
        self.suspensions = 0
        self.task: asyncio.Task[Any] | None = None

    def send(self, value: Any) -> Any:
        return self._suspended(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._suspended(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("it is a task's own")

    def _suspended(self, awaited: Any) -> Any:
        self.suspensions += 1
        task = self.task
        assert task is not None
        if self.suspensions == self._at:
            if self._mode != "when done":
                task.cancel()
            elif awaited is None:
                asyncio.get_running_loop().call_soon(task.cancel)
            else:
                awaited.add_done_callback(lambda _: task.cancel())
        elif self.suspensions == self._at + 1 and self._mode == "twice":
            task.cancel()
        return awaited


class Context:
    """What a handler of a stream of answers has from gRPC."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def write(self, message: bytes | Any) -> None:
        await asyncio.sleep(0)
        self.messages.append(message if isinstance(message, bytes) else message.SerializeToString())
        await asyncio.sleep(0)

    async def abort(self, code: Any, text: str, trailers: Any = ()) -> None:
        raise ConnectionAbortedError(f"{code}: {text}")


class Server:
    """The real services over a runtime of its own, without gRPC: bytes in, bytes out, on this event loop."""

    def __init__(self, folder: Path | None, **fields: Any) -> None:
        settings = {"threads": 2, "inline_bytes_max": 0, "chunk_bytes_max": 4 * CHUNK_BYTES, "data_dir": folder}
        self.runtime = Runtime(ServerConfig(**{**settings, "shards": 2, **fields}))
        self.gate = dispatch.Gate(self.runtime.config)
        self.handover = Handover(LocalServer())
        services = {
            "JobService": {**JobService(self.runtime).methods(), **ChangeService(self.runtime).methods()},
            "WorkerService": {
                **WorkerService(self.runtime, self.handover).methods(),
                **PayloadService(self.runtime).methods(),
            },
        }
        self._methods = {
            name: (pb.DESCRIPTOR.services_by_name[service].methods_by_name[name], method)
            for service, methods in services.items()
            for name, method in methods.items()
        }
        self.tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Restore nothing, and open."""
        await self.runtime.start()
        self.handover.start()
        self.gate.open = True
        self.tasks = asyncio.all_tasks()

    def call(self, name: str, *messages: Any) -> Coroutine[Any, Any, Any]:
        """As gRPC would call it; the answer is the response's message, or the list of them."""
        rpc, method = self._methods[name]
        parse = dispatch.parser(rpc, self.gate)
        if rpc.server_streaming:
            return self._pulled(dispatch._stream_out(name, parse, method, self.gate), messages[0])
        if rpc.client_streaming:
            answer = dispatch._answer(name, dispatch._each(parse, self.gate), method, self.gate)
            return self._answered(rpc, answer(_stream(messages)))
        answer = dispatch._answer(name, parse, method, self.gate)
        return self._answered(rpc, answer(messages[0].SerializeToString()))

    async def _answered(self, rpc: Any, answer: Coroutine[Any, Any, bytes]) -> Any:
        return getattr(pb, rpc.output_type.name).FromString(await answer)

    async def _pulled(self, handle: Callable[..., Any], message: Any) -> Any:
        context = Context()
        await handle(message.SerializeToString(), context)
        return [pb.PullResponse.FromString(each) for each in context.messages]

    def host(self, job: str) -> JobHost:
        return self.runtime.jobs[job]

    async def create_ready(self, job: str, spec: JobSpec) -> None:
        token = (await self.call("CreateJob", create_request(job, spec, "creator"))).upload_token
        await self.call("UploadParameters", *upload_messages(job, token, spec.layout, START, CHUNK_BYTES))

    async def join(self, job: str, worker: str) -> int:
        epoch: int = (await self.call("Join", pb.JoinRequest(job=job, worker=worker))).epoch
        return epoch

    def push_of(self, job: str, worker: str, epoch: int, seq: int = 1, value: float = 0.5, **fields: Any) -> list[Any]:
        """The messages of a push; with shared_buffer its header alone."""
        version = self.host(job).machine.version
        base = pb.Version(lineage=version.lineage, step=version.step)
        header = push_header(job, worker, epoch, seq, base, LAYOUT, **fields)
        messages = list(push_messages(header, np.full(LAYOUT.elements, value, np.float32), CHUNK_BYTES))
        return messages[:1] if header.shared_buffer else messages

    async def quiet(self) -> None:
        """Until nothing is on its way. Fails if something never ends."""
        async with asyncio.timeout(QUIET_S_MAX):
            while True:
                for host in list(self.runtime.jobs.values()):
                    await host.drain()
                going = {task for task in asyncio.all_tasks() - self.tasks if task is not asyncio.current_task()}
                if not going:
                    return
                await asyncio.wait(going)

    async def close(self) -> None:
        await self.handover.close(0.0)
        self.runtime.freeze()
        await self.runtime.close()

    def check(self) -> None:
        """What must hold once everything is quiet."""
        assert self.gate.calls == 0, "a call is counted that is over"
        for host in self.runtime.jobs.values():
            assert not host.failure, host.failure
            host.machine.check_invariants()
            assert not host.slabs_still.locked(), "a lock is held by nobody"
            assert not host._staging.opening.locked(), "a lock is held by nobody"
            assert not host._waiting._waiters, "a call waits that is over"
            unanswered = [*host.machine.rounds.unanswered(), *host.machine.rounds.closing_pushes.values()]
            wanted = {(each.push.worker, each.push.epoch) for each in unanswered}
            assert set(host.shards.staged) == wanted, "a gradient is staged for nobody"
            host._staging.trim()
            streamed = set(host.shards.staged) - set(host.shards.adopted())
            assert host.shards.buffers == len(streamed), "a buffer is taken by nobody"
            live = {(member.worker, member.epoch) for member in host.machine.state.members}
            assert set(host.sharing._workers) <= live, "memory is kept for an epoch that is over"


def create_request(job: str, spec: JobSpec, worker: str) -> pb.CreateJobRequest:
    return pb.CreateJobRequest(job=job, spec=job_spec_to_proto(spec), worker=worker)


async def _stream(messages: Iterable[Any]) -> AsyncIterator[bytes]:
    for message in messages:
        await asyncio.sleep(0)
        yield message.SerializeToString()
    await asyncio.sleep(0)


async def later() -> None:
    """Let the call that is cancelled come first."""
    for _ in range(LATER_TURNS):
        await asyncio.sleep(0)


class Bystander:
    """Another job of the server, with a worker of its own, that must notice nothing."""

    SPEC = JobSpec(LAYOUT, SGDM(0.1), Sync(1))
    JOB = "bystander"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._epoch = 0
        self._seq = 0

    async def begin(self) -> None:
        await self._server.create_ready(self.JOB, self.SPEC)
        self._epoch = await self._server.join(self.JOB, "b")

    async def step(self) -> None:
        self._seq += 1
        messages = self._server.push_of(self.JOB, "b", self._epoch, self._seq, float(self._seq))
        answer = await self._server.call("Push", *messages)
        assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED

    def parameters(self) -> bytes:
        return self._server.host(self.JOB).shards.flat_parameters().tobytes()


class OneAtATime:
    """While it is entered nothing may work on slabs while something else does; threads that read take their time."""

    READING = ("copy_parameters", "each_chunk", "images")
    METHODS = ("prepare", "apply", "keep", "put_back", *READING)

    def __init__(self) -> None:
        self._real = {name: getattr(ShardGroup, name) for name in self.METHODS}
        self._busy: dict[int, str] = {}

    def __enter__(self) -> None:
        for name in self.METHODS:
            setattr(ShardGroup, name, self._watched(name))

    def __exit__(self, *_: object) -> None:
        for name, method in self._real.items():
            setattr(ShardGroup, name, method)

    def _watched(self, name: str) -> Callable[..., Any]:
        def method(group: ShardGroup, *arguments: Any) -> Any:
            other = self._busy.setdefault(id(group), name)
            assert other == name, f"{name} while {other} works on the same slabs"
            try:
                if name in self.READING and threading.current_thread() is not threading.main_thread():
                    time.sleep(READ_S)
                return self._real[name](group, *arguments)
            finally:
                self._busy.pop(id(group), None)

        return method


class Traces:
    """What a process has of the system: to be the same before and after."""

    def __init__(self) -> None:
        gc.collect()
        self._found = self._now()

    def check(self) -> None:
        gc.collect()
        eventually(lambda: self._now()[1] <= self._found[1], "every thread to end")
        descriptors, _, memory = self._now()
        assert descriptors <= self._found[0], f"{descriptors} descriptors, {self._found[0]} before"
        assert memory <= self._found[2], f"{memory} pieces of shared memory, {self._found[2]} before"

    @staticmethod
    def _now() -> tuple[int, set[str], int]:
        pool = {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
        maps = Path("/proc/self/maps").read_text().splitlines()
        memory = {line.split()[4] for line in maps if "/memfd:optimd" in line}
        return len(os.listdir("/proc/self/fd")), pool, len(memory)


async def drive(work: Coroutine[Any, Any, Any], at: int, mode: str) -> int:
    """Run it as a task, cancelled as told. Returns its suspensions."""
    driven = Driven(work, at, mode)
    driven.task = asyncio.get_running_loop().create_task(driven)
    with contextlib.suppress(asyncio.CancelledError):
        await driven.task
    driven.task = None
    return driven.suspensions
