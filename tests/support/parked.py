"""Many workers parked in one round of a real server, each on a connection of its own, without a thread for any."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from optimdpb.checksum import crc32c
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import SGD, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import push_header, upload_messages

LAYOUT = Layout((Tensor("w", (250,)),))
# Each channel gets its own connection instead of sharing those to the same address.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class Footprint:
    """A process as the kernel sees it."""

    threads: int
    resident_bytes: int


def footprint(pid: int) -> Footprint:
    """Of a running process."""
    status = Path(f"/proc/{pid}/status").read_text()
    field = lambda name: int(status.partition(f"{name}:")[2].split()[0])  # noqa: E731
    return Footprint(field("Threads"), field("VmRSS") * 1024)


@dataclass(frozen=True)
class Parked:
    """Before anybody joined, with everybody joined and connected, with everybody parked, and how all ended."""

    before: Footprint
    connected: Footprint
    parked: Footprint
    applied: int


def park(address: str, pid: int, workers: int) -> Parked:
    """All but one of the workers wait for the last one's push; then it comes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return asyncio.run(_park(address, pid, workers))


async def _park(address: str, pid: int, workers: int) -> Parked:
    channels = [grpc.aio.insecure_channel(address, options=OWN_CONNECTION) for _ in range(workers)]
    try:
        version = await _create(channels[0], workers)
        before = footprint(pid)
        names = [f"w{number:05}" for number in range(workers)]
        join = [pb.JoinRequest(job="parked", worker=name) for name in names]
        joined = await asyncio.gather(
            *(_unary(channel, "Join", request) for channel, request in zip(channels, join, strict=True))
        )
        connected = footprint(pid)
        gradient = np.full(LAYOUT.elements, 0.5, np.float32).tobytes()
        steps = [
            pb.StepRequest(
                header=push_header("parked", name, answer.epoch, 1, version, LAYOUT),
                crc32c=crc32c(gradient),
                data=gradient,
            )
            for name, answer in zip(names, joined, strict=True)
        ]
        pairs = zip(channels[:-1], steps[:-1], strict=True)
        waiting = [asyncio.ensure_future(_unary(channel, "Step", request)) for channel, request in pairs]
        await _wait_taken(channels[-1], workers - 1)
        parked = footprint(pid)
        last = await _unary(channels[-1], "Step", steps[-1])
        answers = [*await asyncio.gather(*waiting), last]
        applied = sum(answer.outcome.status == pb.OUTCOME_STATUS_APPLIED for answer in answers)
        return Parked(before, connected, parked, applied)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _create(channel: grpc.aio.Channel, workers: int) -> pb.Version:
    spec = job_spec_to_proto(JobSpec(LAYOUT, SGD(0.1), Sync(workers)))
    created = await _unary(channel, "CreateJob", pb.CreateJobRequest(job="parked", spec=spec, worker="w00000"))
    start = np.zeros(LAYOUT.elements, np.float32)
    upload = channel.stream_unary(
        "/optimd.v1.JobService/UploadParameters",
        request_serializer=pb.UploadParametersRequest.SerializeToString,
        response_deserializer=pb.UploadParametersResponse.FromString,
    )
    answer = await upload(iter(upload_messages("parked", created.upload_token, LAYOUT, start)))
    return pb.Version(lineage=answer.header.lineage, step=answer.header.step)


async def _wait_taken(channel: grpc.aio.Channel, count: int) -> None:
    """Until so many pushes wait."""
    while True:
        status = await _unary(channel, "GetJob", pb.GetJobRequest(job="parked"))
        if sum(worker.last_seq for worker in status.workers) >= count:
            return
        await asyncio.sleep(0.1)


async def _unary(channel: grpc.aio.Channel, name: str, request: pb.GetJobRequest) -> pb.GetJobResponse:
    rpcs = {rpc.name: rpc for service in pb.DESCRIPTOR.services_by_name.values() for rpc in service.methods}
    response_class = getattr(pb, rpcs[name].output_type.name)
    call = channel.unary_unary(
        f"/{rpcs[name].containing_service.full_name}/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=response_class.FromString,
    )
    return await call(request, timeout=120)
