"""What shared memory costs the server is counted and bounded, whoever asks for it and however often."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.specs import SGD, Async, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, push_header, reason_of
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (50_000,)),))
START = np.ones(50_000, np.float32)
ROOM = 12


@pytest.fixture
def job(request: pytest.FixtureRequest) -> str:
    """A name of its own: servers of other tests may not be collected yet."""
    return re.sub(r"[^A-Za-z0-9]", "-", request.node.name)


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, staging_bytes_max=ROOM * LAYOUT.size_bytes, lease_s=60.0)) as running:
        yield running


def segments(job: str) -> tuple[int, int]:
    """Pieces of shared memory of a job that this process has mapped, and descriptors of such."""
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"/memfd:optimd:{job}" in line]
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return len({line.split()[4] for line in maps}), sum(link.startswith(f"/memfd:optimd:{job}") for link in links)


def opened(client: RawClient, job: str, epoch: int) -> pb.OpenSharedMemoryResponse:
    response = client.call("OpenSharedMemory", pb.OpenSharedMemoryRequest(job=job, worker="w", epoch=epoch))
    assert isinstance(response, pb.OpenSharedMemoryResponse)
    return response


@pytest.mark.parametrize("rejoins", [False, True])
@pytest.mark.parametrize("model", [Sync(1), Async()], ids=["Sync", "Async"])
def test_memory_that_is_asked_for_again_and_never_fetched_takes_the_place_of_the_last(
    client: RawClient, job: str, model: Sync | Async, rejoins: bool
) -> None:
    client.create_ready(job, JobSpec(LAYOUT, SGD(0.1), model), START)
    epoch = client.join(job, "w").epoch
    opened(client, job, epoch)
    mapped, descriptors = segments(job)
    for _ in range(30):
        if rejoins:
            epoch = client.join(job, "w").epoch
        opened(client, job, epoch)
    eventually(lambda: segments(job) == (mapped, descriptors), "memory of one epoch to be left")
    client.call("Leave", pb.LeaveRequest(job=job, worker="w", epoch=epoch))
    eventually(lambda: segments(job) == (1, 2), "the job's own parameters to be left, under two descriptors")


def test_gradients_that_restarted_workers_leave_in_shared_memory_count(
    server: ThreadServer, client: RawClient, job: str
) -> None:
    """Of a job that is paused: they wait to be applied."""
    client.create_ready(job, JobSpec(LAYOUT, SGD(0.0), Async()), START)
    client.call("UpdateJob", pb.UpdateJobRequest(job=job, request_id="p", state=pb.JOB_STATE_PAUSED))
    version, _ = client.pull(job)
    left = []
    refused = ""
    while not refused:
        epoch = client.join(job, "w").epoch
        try:
            opened(client, job, epoch)
        except grpc.RpcError as error:
            refused = reason_of(error)[0]
        else:
            header = push_header(job, "w", epoch, 1, version, LAYOUT, shared_buffer=1)
            left.append(client.start("Push", iter([pb.PushRequest(header=header)])))
            shards = server.host(job).shards
            while server.last_seq(job, "w", epoch) == 0:
                pass
            assert len(left) <= ROOM, "nothing bounds them"
            assert shards.staged
    assert refused == "SHARED_MEMORY_UNAVAILABLE"
    budget = server.host(job)._staging
    assert server.on_loop(lambda: budget.left_bytes) == len(left) * LAYOUT.size_bytes
    assert segments(job)[0] <= ROOM + 1
    client.call("UpdateJob", pb.UpdateJobRequest(job=job, request_id="r", state=pb.JOB_STATE_READY))
    assert {call.result(timeout=20).outcome.status for call in left} == {pb.OUTCOME_STATUS_APPLIED}
    assert server.on_loop(lambda: budget.left_bytes) == 0
    opened(client, job, epoch)
