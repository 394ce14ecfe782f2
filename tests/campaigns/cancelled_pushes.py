"""Calls of workers that are to be cancelled, each with what must be true afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
from optimd_server.runtime import JobHost
from optimdpb.checksum import crc32c
from optimdpb.specs import SGDM, JobSpec, Sync
from optimdpb.v1 import optimd_pb2 as pb

from tests.campaigns.cancelling import LAYOUT, START, Server, later

JOB = "job"


async def nothing() -> None:
    """Happens beside."""


@dataclass
class Prepared:
    """One call, ready to be made. beside(): what happens meanwhile.

    after(beside): what must be true then; it awaits what happens beside, which may wait for something of it.
    """

    call: Coroutine[Any, Any, Any]
    after: Callable[[Awaitable[Any]], Awaitable[None]]
    beside: Callable[[], Coroutine[Any, Any, Any]] = nothing


Prepare = Callable[[Server], Awaitable[Prepared]]


class Pusher:
    """A worker of the job whose push is cancelled, and that finds out afterwards as the contract says."""

    def __init__(self, server: Server, worker: str, epoch: int, **fields: Any) -> None:
        self._server = server
        self.worker = worker
        self.epoch = epoch
        self._messages = server.push_of(JOB, worker, epoch, **fields)

    @classmethod
    async def joined(cls, server: Server, worker: str = "w", *, shared: bool = False, **fields: Any) -> Pusher:
        epoch = await server.join(JOB, worker)
        if shared:
            memory = await server.host(JOB).open_shared(worker, epoch)
            memory.gradients[0].values[:] = 0.5
            fields["shared_buffer"] = 1
        return cls(server, worker, epoch, **fields)

    def push(self) -> Coroutine[Any, Any, Any]:
        return self._server.call("Push", *self._messages)

    def step(self) -> Coroutine[Any, Any, Any]:
        header = self._messages[0].header
        data = b"".join(message.data for message in self._messages)
        return self._server.call(
            "Step", pb.StepRequest(header=header, crc32c=crc32c(data) if data else None, data=data)
        )

    async def settle(self) -> pb.Outcome:
        """AwaitOutcome; UNKNOWN: send it again under the same seq."""
        ask = pb.AwaitOutcomeRequest(job=JOB, worker=self.worker, epoch=self.epoch, seq=1)
        answer = await self._server.call("AwaitOutcome", ask)
        if answer.state == pb.PUSH_STATE_UNKNOWN:
            answer = await self.push()
        assert answer.state == pb.PUSH_STATE_DONE, answer
        again = await self._server.call("AwaitOutcome", ask)
        assert again.outcome == answer.outcome, "one push has two outcomes"
        outcome: pb.Outcome = answer.outcome
        return outcome


def stepped(host: JobHost, updates: int) -> None:
    """So many updates were made of gradients of 0.5, no more and no fewer."""
    assert host.machine.state.step == updates
    assert host.machine.state.counters.applied >= updates
    parameters, velocity = START.copy(), np.zeros_like(START)
    gradient = np.full_like(START, 0.5)
    for step in range(updates):
        velocity = gradient if step == 0 else np.float32(0.9) * velocity + gradient
        parameters = parameters - np.float32(0.1) * velocity
    assert np.allclose(host.shards.flat_parameters(), parameters, rtol=1e-5), "another number of updates"


def pushing(model: Any, how: str = "push", *, workers: int = 1, shared: bool = False, **fields: Any) -> Prepare:
    """A push or a step of one worker; the other workers of the round push beside it."""

    async def prepare(server: Server) -> Prepared:
        await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), model))
        pushers = [await Pusher.joined(server, f"w{index}", shared=shared, **fields) for index in range(workers)]

        async def others() -> None:
            await later()
            await asyncio.gather(*(pusher.push() for pusher in pushers[1:]))

        async def after(beside: Awaitable[Any]) -> None:
            first = await pushers[0].settle()
            await beside
            outcomes = [first, *[await pusher.settle() for pusher in pushers[1:]]]
            assert {outcome.status for outcome in outcomes} == {pb.OUTCOME_STATUS_APPLIED}
            stepped(server.host(JOB), 1 if isinstance(model, Sync) else workers)

        return Prepared(getattr(pushers[0], how)(), after, others if workers > 1 else nothing)

    return prepare


def awaiting() -> Prepare:
    """AwaitOutcome of a push whose round another worker closes."""

    async def prepare(server: Server) -> Prepared:
        await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), Sync(2)))
        first, second = await Pusher.joined(server, "w0"), await Pusher.joined(server, "w1")
        pushed = asyncio.ensure_future(first.push())
        await later()
        ask = pb.AwaitOutcomeRequest(job=JOB, worker="w0", epoch=first.epoch, seq=1)

        async def others() -> None:
            await later()
            await second.push()
            await pushed

        async def after(beside: Awaitable[Any]) -> None:
            await beside
            await first.settle()
            await second.settle()
            stepped(server.host(JOB), 1)

        return Prepared(server.call("AwaitOutcome", ask), after, others)

    return prepare


def pulling(model: Any, encoding: int = pb.ENCODING_F32, *, shared: bool = False) -> Prepare:
    """A pull; an update is made beside it."""

    async def prepare(server: Server) -> Prepared:
        await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), model))
        pusher = await Pusher.joined(server, shared=shared)
        request = pb.PullRequest(job=JOB, encoding=encoding, worker="w", epoch=pusher.epoch, shared_memory=shared)

        async def update() -> None:
            await asyncio.sleep(0)
            await pusher.push()

        async def after(beside: Awaitable[Any]) -> None:
            await beside
            messages = await server.call("Pull", request)
            copy = server.host(JOB).sharing.copy_of("w", pusher.epoch)
            data = b"".join(message.data for message in messages)
            expected = server.host(JOB).shards.flat_parameters()
            if messages[0].parameters.location == pb.LOCATION_COPY:
                assert copy is not None
                data = copy.tobytes()
            if encoding == pb.ENCODING_F32 and messages[0].parameters.location != pb.LOCATION_SHARED:
                assert data == expected.tobytes(), "parameters that were never those of the job"
            await pusher.settle()
            stepped(server.host(JOB), 1)

        return Prepared(server.call("Pull", request), after, update)

    return prepare


def sharing(model: Any, *, again: bool) -> Prepare:
    """OpenSharedMemory; asked again the epoch has the memory of one."""

    async def prepare(server: Server) -> Prepared:
        await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), model))
        epoch = await server.join(JOB, "w")
        request = pb.OpenSharedMemoryRequest(job=JOB, worker="w", epoch=epoch)
        if again:
            await server.call("OpenSharedMemory", request)
        vectors = server.host(JOB).sharing.vectors_per_worker

        async def after(beside: Awaitable[Any]) -> None:
            await server.call("OpenSharedMemory", request)
            assert server.host(JOB).sharing.vectors == vectors
            assert len(server.handover._offers) == 1
            server.host(JOB).sharing.gradient("w", epoch, 1)[:] = 0.5
            await Pusher(server, "w", epoch, shared_buffer=1).settle()
            stepped(server.host(JOB), 1)

        return Prepared(server.call("OpenSharedMemory", request), after)

    return prepare
