"""Every call of the server, cancelled at each of its suspensions in turn.

python -m tests.campaigns.cancellations [SCENARIO ...]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optimd_server.optimizers.warmup import compile_kernels
from optimd_server.runtime import JobHost
from optimdpb.checksum import crc32c
from optimdpb.codec import schedule_to_proto
from optimdpb.errors import Refused
from optimdpb.specs import SGDM, Async, JobSpec, Layout, OneCycle, Sequence, Ssp, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.campaigns.cancelling import (
    CHUNK_BYTES,
    LAYOUT,
    MODES,
    START,
    Bystander,
    OneAtATime,
    Server,
    Traces,
    create_request,
    drive,
    later,
)
from tests.support.calls import upload_messages

SUSPENSIONS_MAX = 200
JOB = "job"
# Where kernels run: on the event loop, or on threads.
PLACES = {"loop": {}, "threads": {"one_thread_bytes_max": 0}}


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


async def uploading(server: Server) -> Prepared:
    """An upload; whoever is named uploads again."""
    spec = JobSpec(LAYOUT, SGDM(0.1), Sync(1))
    token = (await server.call("CreateJob", create_request(JOB, spec, "creator"))).upload_token
    messages = list(upload_messages(JOB, token, LAYOUT, START, CHUNK_BYTES))

    async def after(beside: Awaitable[Any]) -> None:
        if not server.host(JOB).ready.is_set():
            await server.call("UploadParameters", *messages)
        assert server.host(JOB).shards.flat_parameters().tobytes() == START.tobytes()

    return Prepared(server.call("UploadParameters", *messages), after)


def creating(*, waits: bool, large: bool) -> Prepare:
    """CreateJob, which waits for another's upload, or whose specification is read on a thread."""

    async def prepare(server: Server) -> Prepared:
        extra = tuple(Tensor(f"t{number:04}.{'x' * 60}", (0,)) for number in range(400)) if large else ()
        spec = JobSpec(Layout((*LAYOUT.tensors, *extra)), SGDM(0.1), Sync(1))
        if waits:
            await server.call("CreateJob", create_request(JOB, spec, "other"))

        async def upload() -> None:
            await later()
            token = server.host(JOB).machine.state.creation.token
            await server.call("UploadParameters", *upload_messages(JOB, token, spec.layout, START, CHUNK_BYTES))

        async def after(beside: Awaitable[Any]) -> None:
            await beside
            answer = await server.call("CreateJob", create_request(JOB, spec, "creator"))
            if answer.disposition == pb.CREATE_DISPOSITION_WAIT:  # the first asking was heard
                return
            if answer.disposition == pb.CREATE_DISPOSITION_UPLOAD:
                messages = upload_messages(JOB, answer.upload_token, spec.layout, START, CHUNK_BYTES)
                await server.call("UploadParameters", *messages)
            assert server.host(JOB).ready.is_set()

        return Prepared(
            server.call("CreateJob", create_request(JOB, spec, "creator")), after, upload if waits else nothing
        )

    return prepare


async def saving(server: Server) -> Prepared:
    """A snapshot; the next one is whole, whatever became of this one."""
    await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), Sync(1)))
    pusher = await Pusher.joined(server)
    request = pb.CreateSnapshotRequest(job=JOB)

    async def after(beside: Awaitable[Any]) -> None:
        await beside
        await pusher.settle()
        answer = await server.call("CreateSnapshot", request)
        assert Path(answer.snapshot).is_dir()
        assert not [path for path in Path(answer.snapshot).parent.iterdir() if "aside" in path.name]
        stepped(server.host(JOB), 1)

    return Prepared(server.call("CreateSnapshot", request), after, pusher.push)


async def testing(server: Server) -> Prepared:
    """StartRangeTest; the test ends and everything is as it was."""
    await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), Sync(1)))
    request = pb.StartRangeTestRequest(job=JOB, request_id="r", lr_start=1e-4, lr_end=1e-1, steps=10)

    async def after(beside: Awaitable[Any]) -> None:
        await server.call("StartRangeTest", request)
        await server.call("UpdateJob", pb.UpdateJobRequest(job=JOB, request_id="end", state=pb.JOB_STATE_READY))
        await server.quiet()
        assert server.host(JOB).state_name == "READY"
        await (await Pusher.joined(server)).settle()
        stepped(server.host(JOB), 1)

    return Prepared(server.call("StartRangeTest", request), after)


async def changing(server: Server) -> Prepared:
    """UpdateJob with a schedule that is read on a thread; asked again it is the same change."""
    await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), Sync(1)))
    schedule = schedule_to_proto(Sequence([(5, OneCycle(0.1, 4, 0.31, 24.0, 9e3, 0.84, 0.94))] * 300))
    request = pb.UpdateJobRequest(job=JOB, request_id="u", schedules={"lr": schedule})

    async def after(beside: Awaitable[Any]) -> None:
        assert (await server.call("UpdateJob", request)).revision == 1
        assert server.host(JOB).machine.state.clock.revision == 1

    return Prepared(server.call("UpdateJob", request), after)


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


SCENARIOS: dict[str, Prepare] = {
    "push, Async": pushing(Async()),
    "push, Sync of two": pushing(Sync(2), workers=2),
    "push, Ssp of two": pushing(Ssp(0), workers=2),
    "push in shared memory, Async": pushing(Async(), shared=True),
    "push in shared memory, Sync of three": pushing(Sync(3), workers=3, shared=True),
    "step, Async": pushing(Async(), "step"),
    "step, Sync of two": pushing(Sync(2), "step", workers=2),
    "step in shared memory, Sync": pushing(Sync(1), "step", shared=True),
    "step in shared memory, Async": pushing(Async(), "step", shared=True),
    "await": awaiting(),
    "pull": pulling(Async()),
    "pull as bfloat16": pulling(Async(), pb.ENCODING_BF16),
    "pull into shared memory": pulling(Async(), shared=True),
    "upload": uploading,
    "create and wait": creating(waits=True, large=False),
    "create a large one": creating(waits=False, large=True),
    "snapshot": saving,
    "range test": testing,
    "update": changing,
    "open shared memory, Sync": sharing(Sync(1), again=False),
    "open shared memory, Async": sharing(Async(), again=False),
    "open shared memory again": sharing(Async(), again=True),
}


async def cancelled_once(scenario: str, place: str, at: int, mode: str) -> int:
    """One run. Returns how many suspensions the call had."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", **PLACES[place])
        await server.start()
        bystander = Bystander(server)
        await bystander.begin()
        prepared = await SCENARIOS[scenario](server)
        stepping = asyncio.ensure_future(bystander.step())
        beside = asyncio.ensure_future(prepared.beside())
        suspensions = await drive(prepared.call, at, mode)
        await stepping
        if prepared.beside is nothing:
            await server.quiet()
            server.check()
        await prepared.after(beside)
        await bystander.step()
        await server.quiet()
        server.check()
        assert bystander.parameters() == EXPECTED
        await server.close()
    return suspensions


def _bystanders_end() -> bytes:
    """After its two updates."""
    parameters, velocity = START.copy(), np.zeros_like(START)
    for step in (1, 2):
        gradient = np.full_like(START, float(step))
        velocity = gradient if step == 1 else np.float32(0.9) * velocity + gradient
        parameters = parameters - np.float32(0.1) * velocity
    return parameters.tobytes()


EXPECTED = _bystanders_end()


def cancelled_everywhere(scenario: str, place: str, mode: str) -> int:
    """Each suspension in turn. Returns how many there were."""
    for at in itertools.count(1):
        assert at < SUSPENSIONS_MAX, "it does not come to an end"
        traces = Traces()
        try:
            with OneAtATime():
                suspensions = asyncio.run(cancelled_once(scenario, place, at, mode))
            traces.check()
        except BaseException as error:
            error.add_note(f"{scenario}, on {place}, cancelled {mode} at suspension {at}")
            raise
        if suspensions < at:
            return at - 1
    raise AssertionError


def warm_up() -> None:
    """Compile, and open what a process opens once."""
    compile_kernels()
    with contextlib.suppress(AssertionError):
        asyncio.run(cancelled_once("push, Async", "threads", 0, ""))


def cases() -> Iterator[tuple[str, str, str]]:
    """Scenario, place, mode."""
    return itertools.product(SCENARIOS, PLACES, MODES)


def main() -> int:
    """Prints how many suspensions each case had. Returns how many cases failed."""
    warm_up()
    wanted, failed, total = sys.argv[1:], 0, 0
    for scenario, place, mode in cases():
        if wanted and scenario not in wanted:
            continue
        try:
            count = cancelled_everywhere(scenario, place, mode)
        except (Exception, Refused) as error:
            failed += 1
            print(
                f"FAILED {scenario}, {place}, {mode}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
            )
            continue
        total += count
        print(f"{count:4} {scenario}, {place}, {mode}")
    print(f"{total} cancellations, {failed} cases failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
