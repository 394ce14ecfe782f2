"""Calls about a job itself that are to be cancelled, each with what must be true afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any

from optimd_server.storage.directory import folder_name
from optimdpb.codec import schedule_to_proto
from optimdpb.errors import Refused
from optimdpb.specs import SGD, SGDM, JobSpec, Layout, Linear, OneCycle, Sequence, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.campaigns.cancelled_pushes import JOB, Prepare, Prepared, Pusher, nothing, stepped
from tests.campaigns.cancelling import CHUNK_BYTES, LAYOUT, START, Server, create_request, later
from tests.support.calls import upload_messages

SPEC = JobSpec(LAYOUT, SGDM(0.1), Sync(1))
# Of no elements: a specification with them is read on a thread.
MANY_TENSORS = tuple(Tensor(f"t{number:04}.{'x' * 60}", (0,)) for number in range(400))

# Of the event loop, in which the first half of an upload comes.
HALF_AN_UPLOAD_TURNS = 3


async def refused(call: Coroutine[Any, Any, Any], *reasons: str) -> str:
    """Why the call was refused, one of these; "" if it was not."""
    reason = ""
    try:
        await call
    except Refused as error:
        reason = error.reason
    assert reason in ("", *reasons)
    return reason


async def uploading(server: Server) -> Prepared:
    """An upload; whoever is named uploads again."""
    token = (await server.call("CreateJob", create_request(JOB, SPEC, "creator"))).upload_token
    messages = list(upload_messages(JOB, token, LAYOUT, START, CHUNK_BYTES))

    async def after(beside: Awaitable[Any]) -> None:
        if not server.host(JOB).ready.is_set():
            await server.call("UploadParameters", *messages)
        assert server.host(JOB).shards.flat_parameters().tobytes() == START.tobytes()

    return Prepared(server.call("UploadParameters", *messages), after)


def creating(*, waits: bool, large: bool) -> Prepare:
    """CreateJob, which waits for another's upload, or whose specification is read on a thread."""

    async def prepare(server: Server) -> Prepared:
        spec = JobSpec(Layout((*LAYOUT.tensors, *(MANY_TENSORS if large else ()))), SGDM(0.1), Sync(1))
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
    await server.create_ready(JOB, SPEC)
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
    await server.create_ready(JOB, SPEC)
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
    await server.create_ready(JOB, SPEC)
    schedule = schedule_to_proto(Sequence([(5, OneCycle(0.1, 4, 0.31, 24.0, 9e3, 0.84, 0.94))] * 300))
    request = pb.UpdateJobRequest(job=JOB, request_id="u", schedules={"lr": schedule})

    async def after(beside: Awaitable[Any]) -> None:
        assert (await server.call("UpdateJob", request)).revision == 1
        assert server.host(JOB).machine.state.clock.revision == 1

    return Prepared(server.call("UpdateJob", request), after)


async def lengthening(server: Server) -> Prepared:
    """UpdateJob of a job that has finished: it goes on; asked again it is the same change."""
    await server.create_ready(JOB, JobSpec(LAYOUT, SGDM(0.1), Sync(1), steps_max=1))
    pusher = await Pusher.joined(server)
    await pusher.push()
    schedule = schedule_to_proto(Sequence([(5, Linear(0.1, 0.1, 4))] * 900))
    request = pb.UpdateJobRequest(job=JOB, request_id="u", schedules={"lr": schedule}, steps_max=2)

    async def after(beside: Awaitable[Any]) -> None:
        assert (await server.call("UpdateJob", request)).revision == 1
        assert server.host(JOB).machine.state.clock.steps_max == 2
        answer = await Pusher(server, "w", pusher.epoch, seq=2).push()
        assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED
        assert answer.finished
        stepped(server.host(JOB), 2)

    return Prepared(server.call("UpdateJob", request), after)


def deleting(beside: str, *, with_snapshots: bool = False) -> Prepare:
    """DeleteJob beside a push or a save; asked again it is done, and its name is free."""

    async def prepare(server: Server) -> Prepared:
        await server.create_ready(JOB, SPEC)
        pusher = await Pusher.joined(server)
        await server.call("CreateSnapshot", pb.CreateSnapshotRequest(job=JOB))
        request = pb.DeleteJobRequest(job=JOB, with_snapshots=with_snapshots)
        save = pb.CreateSnapshotRequest(job=JOB)

        async def others() -> None:
            call = pusher.push() if beside == "push" else server.call("CreateSnapshot", save)
            await refused(call, "JOB_DELETED", "PUSH_SUPERSEDED")

        async def after(beside: Awaitable[Any]) -> None:
            await beside
            kept = (await server.call("DeleteJob", request)).snapshots_kept
            assert bool(kept) != with_snapshots
            assert JOB not in server.runtime.jobs
            data = server.runtime.config.data_dir
            assert data is not None
            assert not (data / folder_name(JOB)).exists(), "it comes back at the next start"
            assert [path for path in data.iterdir() if ".deleted-" in path.name] == ([Path(kept)] if kept else [])
            assert await refused(pusher.settle(), "JOB_DELETED") == "JOB_DELETED"
            await server.create_ready(JOB, SPEC)
            assert await refused(pusher.settle(), "NOT_JOINED", "EPOCH_SUPERSEDED")
            await (await Pusher.joined(server)).settle()
            stepped(server.host(JOB), 1)

        return Prepared(server.call("DeleteJob", request), after, others)

    return prepare


def replacing(cancelled: str) -> Prepare:
    """A CreateJob in place of a first try, and the upload of that try: one is cancelled, the other goes on beside."""

    async def prepare(server: Server) -> Prepared:
        first = JobSpec(LAYOUT, SGD(0.5), Sync(1))
        more = MANY_TENSORS if cancelled == "create" else ()
        spec = JobSpec(Layout((*LAYOUT.tensors, *more)), SGDM(0.1), Sync(1))
        token = (await server.call("CreateJob", create_request(JOB, first, "first"))).upload_token
        request = create_request(JOB, spec, "second")
        messages = upload_messages(JOB, token, LAYOUT, -START, CHUNK_BYTES)
        upload = refused(server.call("UploadParameters", *messages), "NOT_UPLOADER")
        create = refused(server.call("CreateJob", request), "JOB_MISMATCH")

        async def after(beside: Awaitable[Any]) -> None:
            await beside
            start = START
            if await refused(server.call("CreateJob", request), "JOB_MISMATCH"):
                start = -START
            elif not server.host(JOB).ready.is_set():
                token = server.host(JOB).machine.state.creation.token
                await server.call("UploadParameters", *upload_messages(JOB, token, spec.layout, START, CHUNK_BYTES))
            host = server.host(JOB)
            assert host.spec == (spec if start is START else first)
            assert host.shards.flat_parameters().tobytes() == start.tobytes(), "parameters of two tries"
            await server.join(JOB, "w")

        call, beside = (create, upload) if cancelled == "create" else (upload, create)

        async def others() -> None:
            for _ in range(HALF_AN_UPLOAD_TURNS):
                await asyncio.sleep(0)
            await beside

        return Prepared(call, after, others)

    return prepare
