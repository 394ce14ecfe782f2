"""What an operator finds in the server's log: who came and went, and what was refused or came to nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.specs import SGD, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, push_header, push_messages
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (10,)),))
START = np.zeros(10, np.float32)


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    config = ServerConfig(threads=1, lease_s=0.5, tick_interval_s=0.05, staging_bytes_max=2 * LAYOUT.size_bytes)
    with ThreadServer(config) as running:
        yield running


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO)
    return lambda: [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def push(client: RawClient, worker: str, epoch: int, value: float = 1.0, seq: int = 1, step: int | None = None) -> None:
    version, _ = client.pull("j")
    if step is not None:
        version.step = step
    header = push_header("j", worker, epoch, seq, version, LAYOUT)
    client.call("Push", push_messages(header, np.full(10, value, np.float32)))


def test_a_job_and_its_workers(client: RawClient, lines: Callable[[], list[str]]) -> None:
    client.create_ready("j", JobSpec(LAYOUT, SGD(0.1), Sync(1)), START)
    old, new = client.join("j", "w").epoch, client.join("j", "w").epoch
    push(client, "w", new)
    client.call("Leave", pb.LeaveRequest(job="j", worker="w", epoch=new))
    lost = client.join("j", "lost").epoch
    eventually(lambda: any("expired" in line for line in lines()), "a lease to end")
    assert [line for line in lines() if " job j" in line] == [
        "INFO job j created by w0: SGD, Sync, 1 tensors, 10 elements",
        f"INFO job j, step 0: worker w, epoch {old}: joined",
        f"WARNING job j, step 0: worker w, epoch {old}: superseded",
        f"INFO job j, step 1: worker w, epoch {new}: left",
        f"INFO job j, step 1: worker lost, epoch {lost}: joined",
        f"WARNING job j, step 1: worker lost, epoch {lost}: expired",
    ]


def test_pushes_that_come_to_nothing(client: RawClient, lines: Callable[[], list[str]]) -> None:
    client.create_ready("j", JobSpec(LAYOUT, SGD(0.1), Sync(1)), START)
    epoch = client.join("j", "w").epoch
    push(client, "w", epoch, np.nan)
    push(client, "w", epoch, 1e30, 2)
    push(client, "w", epoch, 1.0, 3)
    push(client, "w", epoch, 1.0, 4, step=0)
    push(client, "w", epoch, 1.0, 5, step=0)
    said = [line for line in lines() if "push of" in line or "void" in line]
    whose = f"push of worker w, epoch {epoch}"
    assert said[0].startswith(f"WARNING job j, step 0: {whose}, seq 1: REJECTED, NON_FINITE: ")
    assert said[1] == "WARNING job j, step 0: the round is void, the 1. of this job"
    assert said[2].startswith(f"WARNING job j, step 0: {whose}, seq 2: REJECTED, TOO_LARGE: ")
    assert said[3].startswith(f"INFO job j, step 1: {whose}, seq 4: DISCARDED, LATE: ")
    assert len(said) == 4, "the same within ten seconds is counted, not said"


def test_requests_that_are_refused(client: RawClient, lines: Callable[[], list[str]]) -> None:
    client.create_ready("j", JobSpec(LAYOUT, SGD(0.1), Sync(2)), START)
    epochs = [client.join("j", f"w{index}").epoch for index in range(2)]

    def join(number: int) -> None:
        with pytest.raises(grpc.RpcError):
            client.join("j", f"more{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(join, range(30)))
    with pytest.raises(grpc.RpcError):
        push(client, "w0", epochs[0], seq=7)
    with pytest.raises(grpc.RpcError):
        client.call("GetJob", b"\xff\x00garbage")
    with pytest.raises(grpc.RpcError):
        list(client.call("Pull", pb.PullRequest(job="x\n\x1b[2J")))
    refused = [line for line in lines() if " refused, " in line]
    assert refused[0].startswith("WARNING Join refused, BACKLOG_FULL: expected room for 40 bytes")
    assert "(job j, worker more" in refused[0]
    assert refused[1].startswith("INFO Push refused, SEQ_GAP: expected seq 1")
    assert refused[1].endswith(f"(job j, worker w0, epoch {epochs[0]}, seq 7)")
    assert refused[2].startswith("INFO GetJob refused, MALFORMED_REQUEST: ")
    assert refused[2].endswith("(it names no job)")
    assert refused[3].startswith("INFO Pull refused, UNKNOWN_JOB: ")
    assert len(refused) == 4
    assert not any("\n" in line or "\x1b" in line for line in refused), "names of strangers do not write the log"


def test_who_invents_jobs_has_one_line(client: RawClient, lines: Callable[[], list[str]]) -> None:
    for number in range(20):
        with pytest.raises(grpc.RpcError):
            client.call("GetJob", pb.GetJobRequest(job=f"{'x' * 100_000}{number}"))
    assert len([line for line in lines() if "GetJob refused, UNKNOWN_JOB" in line]) == 1
