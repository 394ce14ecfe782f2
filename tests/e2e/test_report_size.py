"""Whatever a server takes, its report of a job fits the message that every client takes."""

from __future__ import annotations

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.codec import schedule_to_proto
from optimdpb.specs import SGD, Async, JobSpec, Layout, OneCycle, Sequence, Table, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient
from tests.support.servers import ThreadServer

TENSORS = 19_800
WORKERS = 4_096
CHANGES = 1_000
SPEC = JobSpec(
    Layout(tuple(Tensor(f"layer.{number:05d}.{'x' * 84}", (1,)) for number in range(TENSORS))), SGD(0.1), Async()
)
MESSAGE_BYTES_MAX = 4 << 20


def test_the_largest_job_can_be_looked_at() -> None:
    """What is left out is counted; who joins without creating the job needs the report, too."""
    with ThreadServer(ServerConfig(threads=1, lease_s=600.0)) as server, RawClient(server.address, 120.0) as client:
        client.create_ready("j", SPEC, np.zeros(TENSORS, np.float32))
        host = server.host("j")
        name = "w" * 123

        def fill() -> None:
            for number in range(WORKERS):
                epoch = host.join(f"{name}{number:05d}").epoch
                host.note_transport(f"{name}{number:05d}", epoch, pb.TRANSPORT_GRPC, "…" * 66)
            for number in range(CHANGES):
                host.machine.state.note("x" * 300, requester="é" * 128, unix_s=1e9, revision=number)

        server.on_loop(fill)
        cycles = schedule_to_proto(Sequence([(5, OneCycle(0.1, 4, 0.31, 24.0, 9e3, 0.84, 0.94))] * 10_000))
        table = schedule_to_proto(Table([(2**50 + step, 0.1) for step in range(10_000)]))
        for name, schedule in {"lr": cycles, "weight_decay": table}.items():
            client.call("UpdateJob", pb.UpdateJobRequest(job="j", request_id=name, schedules={name: schedule}))
        report = client.call("GetJob", pb.GetJobRequest(job="j"))
        assert MESSAGE_BYTES_MAX * 0.9 < report.ByteSize() < MESSAGE_BYTES_MAX
        assert len(report.spec.layout.tensors) == TENSORS
        assert len(report.schedules["weight_decay"].table.points) == 10_000
        assert report.workers_left_out > 0
        assert len(report.workers) + report.workers_left_out == WORKERS
        assert [worker.rank for worker in report.workers] == list(range(len(report.workers)))
        assert report.history_left_out > 0
        assert len(report.history) + report.history_left_out == CHANGES
        assert report.history[-1].revision == 2


def test_a_small_job_is_told_whole() -> None:
    with ThreadServer(ServerConfig(threads=1)) as server, RawClient(server.address) as client:
        client.create_ready("j", JobSpec(Layout((Tensor("w", (1,)),)), SGD(0.1), Async()), np.zeros(1, np.float32))
        client.join("j", "w0")
        client.call("UpdateJob", pb.UpdateJobRequest(job="j", request_id="r", state=pb.JOB_STATE_PAUSED))
        report = client.call("GetJob", pb.GetJobRequest(job="j"))
        assert [worker.worker for worker in report.workers] == ["w0"]
        assert [entry.change for entry in report.history] == ["ready", "paused"]
        assert (report.workers_left_out, report.history_left_out) == (0, 0)


@pytest.mark.parametrize("width", [100, 200], ids=["fits a message", "fits none"])
def test_a_specification_that_is_too_large_names_the_limit(width: int) -> None:
    with (
        ThreadServer(ServerConfig(threads=1)) as server,
        optimd.connect(server.address, job="j", worker="w0", timeout_s=20) as worker,
        pytest.raises(
            optimd.Refused, match=r"at most spec_bytes_max = 2097152, got \d+: take fewer tensors"
        ) as refused,
    ):
        worker.ensure_job({f"{i:0{width}}": np.zeros(1, np.float32) for i in range(20_000)}, SGD(0.1), Async())
    assert (refused.value.reason, refused.value.metadata["limit"]) == ("LIMIT_EXCEEDED", "spec_bytes_max")
