"""A first try that came to nothing does not spoil the name of its job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.codec import job_spec_to_proto
from optimdpb.errors import Refused
from optimdpb.specs import SGD, Adam, Async, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually, until_bytes
from tests.support.calls import RawClient, refusal, upload_messages
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (50_000,)),))
SPEC = JobSpec(LAYOUT, SGD(0.1), Sync(1))
OTHER = JobSpec(LAYOUT, SGD(0.2), Sync(1))
DEEPER = JobSpec(Layout((*LAYOUT.tensors, Tensor("b", (8,)))), Adam(0.1), Async())
START = np.ones(LAYOUT.elements, np.float32)
CHUNK_BYTES = 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadServer]:
    """With room for one such job and a half."""
    config = ServerConfig(
        threads=1,
        jobs_max=1,
        event_log_dir=tmp_path,
        state_bytes_max=4 * LAYOUT.size_bytes,
    )
    with ThreadServer(config) as running:
        yield running


def create_request(spec: JobSpec, *, again: bool = False) -> pb.CreateJobRequest:
    return pb.CreateJobRequest(job="j", spec=job_spec_to_proto(spec), worker="w0", again=again)


def ensure(worker: optimd.Worker, value: float, rule: Any, **options: Any) -> optimd.JobStart:
    return worker.ensure_job({"w": np.full(4, value, np.float32)}, rule, optimd.Sync(1), **options)


def test_parameters_that_were_refused_may_come_back_with_another_rate(server: ThreadServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        with pytest.raises(Refused) as refused:
            ensure(worker, np.nan, optimd.SGD(0.1))
        assert refused.value.reason == "NON_FINITE_PARAMETERS"
        assert ensure(worker, 1.0, optimd.SGD(0.5)) == optimd.JobStart(created=True, global_step=0, finished=False)
        worker.pull()
        assert worker.step({"w": np.ones(4, np.float32)}).parameters["w"].tolist() == [0.5] * 4


def test_so_may_they_with_the_same_rate(server: ThreadServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        with pytest.raises(Refused):
            ensure(worker, np.nan, optimd.SGD(0.1))
        assert ensure(worker, 1.0, optimd.SGD(0.1)).created


@pytest.mark.parametrize("second", [OTHER, DEEPER, JobSpec(LAYOUT, SGD(0.1), Sync(1), steps_max=5)])
def test_a_worker_that_died_before_its_upload_leaves_nothing(
    server: ThreadServer, client: RawClient, second: JobSpec, tmp_path: Path
) -> None:
    old = client.create("j", SPEC, "w0").upload_token
    gone = server.host("j")
    answer = client.create("j", second, "w0")
    assert answer.disposition == pb.CREATE_DISPOSITION_UPLOAD
    assert answer.upload_token > old
    late = upload_messages("j", old, LAYOUT, START, CHUNK_BYTES)
    assert refusal(lambda: client.call("UploadParameters", late))[0] == "NOT_UPLOADER"
    start = np.ones(second.layout.elements, np.float32)
    client.call("UploadParameters", upload_messages("j", answer.upload_token, second.layout, start, CHUNK_BYTES))
    assert client.join("j", "w0").epoch > answer.upload_token
    assert gone.shards.shards == []
    assert gone.sharing.parameters is None
    assert server.on_loop(lambda: len(server.runtime._budget.jobs)) == 1
    assert len(list(tmp_path.glob("*.jsonl"))) == 2  # each has an event log of its own


def test_an_upload_on_its_way_ends_at_once_and_its_worker_is_told_why(server: ThreadServer, client: RawClient) -> None:
    token, over = client.create("j", SPEC, "w0").upload_token, threading.Event()
    half = until_bytes(upload_messages("j", token, LAYOUT, START, CHUNK_BYTES), LAYOUT.size_bytes // 2, over)
    call = client.start("UploadParameters", half)
    host = server.host("j")
    eventually(lambda: server.on_loop(lambda: bool(host.shards.flat_parameters()[0] == 1.0)), "the first chunk")
    client.create("j", OTHER, "w1")
    over.set()
    assert refusal(lambda: call.result(20))[0] == "NOT_UPLOADER"
    reason, metadata = refusal(lambda: client.call("CreateJob", create_request(SPEC, again=True)))
    assert (reason, metadata["field"]) == ("JOB_MISMATCH", "optimizer.lr")


def test_who_waits_for_the_old_one_is_told_the_difference(server: ThreadServer, client: RawClient) -> None:
    client.create("j", SPEC, "w0")
    waiting = client.start("CreateJob", pb.CreateJobRequest(job="j", spec=job_spec_to_proto(SPEC), worker="w1"))
    host = server.host("j")
    eventually(lambda: server.on_loop(lambda: bool(host.ready._waiters)), "a caller that waits")
    client.create("j", OTHER, "w2")
    assert refusal(lambda: waiting.result(20)) == (
        "JOB_MISMATCH",
        {"field": "optimizer.lr", "expected": "0.2", "got": "0.1"},
    )


def test_a_specification_that_is_refused_leaves_the_job_as_it_is(server: ThreadServer, client: RawClient) -> None:
    token = client.create("j", SPEC, "w0").upload_token
    large = JobSpec(Layout((Tensor("w", (5 * LAYOUT.elements,)),)), SGD(0.1), Sync(1))
    assert refusal(lambda: client.create("j", large, "w1"))[0] == "LIMIT_EXCEEDED"
    client.call("UploadParameters", upload_messages("j", token, LAYOUT, START, CHUNK_BYTES))
    assert client.join("j", "w0").epoch


def test_a_job_that_failed_before_it_had_parameters_is_made_anew(server: ThreadServer, client: RawClient) -> None:
    client.create("j", SPEC, "w0")
    host = server.host("j")
    server.on_loop(lambda: host.fail(RuntimeError("a defect"), "planted", trusted=False))
    assert refusal(lambda: client.call("CreateJob", create_request(SPEC, again=True)))[0] == "JOB_FAILED"
    client.create_ready("j", SPEC, START)
    assert client.join("j", "w0").epoch


def test_a_job_with_parameters_is_never_replaced_by_a_specification(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("j", SPEC, START)
    state = server.state_hash("j")
    for again in (False, True):
        assert refusal(lambda again=again: client.call("CreateJob", create_request(OTHER, again=again)))[0] == (
            "JOB_MISMATCH"
        )
    assert server.state_hash("j") == state


def test_two_workers_that_disagree_do_not_take_the_job_from_each_other_for_ever(server: ThreadServer) -> None:
    """Whoever was there first and has no upload yet gives way once, and is told the difference."""
    outcomes: list[object] = []

    def run(rate: float) -> None:
        with optimd.connect(server.address, job="j", worker=f"w-{rate}", timeout_s=10.0) as worker:
            try:
                outcomes.append(ensure(worker, 1.0, optimd.SGD(rate)))
            except optimd.JobMismatch as error:
                outcomes.append(error)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (0.25, 0.5)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["JobMismatch", "JobStart"]
