"""Jobs that were created and never got their parameters give their room back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import SGD, Adam, Async, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, refusal, upload_messages
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (50_000,)),))
SPEC = JobSpec(LAYOUT, Adam(0.1), Sync(1))
START = np.ones(50_000, np.float32)
JOBS_MAX = 3


def served(**fields: Any) -> ThreadServer:
    times = {"lease_s": 0.2, "tick_interval_s": 0.05, "upload_idle_s": 0.4, "push_timeout_s": 5.0}
    return ThreadServer(ServerConfig(**{"threads": 1, "jobs_max": JOBS_MAX, **times, **fields}))


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with served() as running:
        yield running


def test_their_places_and_their_room_are_free_again(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("used", SPEC, START)
    for number in range(JOBS_MAX - 1):
        client.create(f"unused-{number}", SPEC, "w0")
    assert refusal(lambda: client.create("more", SPEC, "w0"))[1]["limit"] == "jobs_max"
    gone = server.host("unused-0")
    names = server.runtime.jobs
    eventually(lambda: server.on_loop(lambda: list(names)) == ["used"], "jobs that nobody uploads to be removed")
    assert server.on_loop(lambda: len(server.runtime._budget.jobs)) == 1
    assert gone.shards.shards == []
    assert gone.sharing.parameters is None
    client.create_ready("more", SPEC, START)
    assert refusal(lambda: client.call("GetJob", pb.GetJobRequest(job="unused-0")))[0] == "UNKNOWN_JOB"


def test_an_upload_that_was_too_late_is_refused_and_can_begin_again(server: ThreadServer, client: RawClient) -> None:
    token = client.create("j", SPEC, "w0").upload_token
    over = threading.Event()
    messages = upload_messages("j", token, LAYOUT, START, LAYOUT.size_bytes // 2)

    def late() -> Iterator[Any]:
        yield next(messages)
        over.wait(30)
        yield from messages

    call = client.start("UploadParameters", late())
    eventually(lambda: "j" not in server.runtime.jobs, "the job to be removed")
    over.set()
    assert refusal(lambda: call.result(20))[0] == "NOT_UPLOADER"
    client.create_ready("j", SPEC, START)


def test_who_waits_for_another_upload_keeps_the_job(server: ThreadServer, client: RawClient) -> None:
    client.create("j", SPEC, "dies")
    asks = pb.CreateJobRequest(job="j", spec=job_spec_to_proto(SPEC), worker="waits")
    answer = client.start("CreateJob", asks).result(20)
    assert answer.disposition == pb.CREATE_DISPOSITION_UPLOAD
    client.call("UploadParameters", upload_messages("j", answer.upload_token, LAYOUT, START))
    assert client.join("j", "waits").epoch


def test_jobs_that_do_not_fit_memory_together_are_refused() -> None:
    """Parameters, two slots of Adam, and the versions that delay compensation keeps."""
    delayed = JobSpec(LAYOUT, SGD(0.1), Async(staleness_max=3, delay_compensation=0.1))
    room = {"state_bytes_max": 6 * LAYOUT.size_bytes}
    with served(**room, upload_idle_s=60.0, shared_memory=False) as server, RawClient(server.address) as client:
        client.create("three", SPEC, "w0")
        kept = delayed.consistency.versions_kept  # type: ignore[attr-defined]
        reason, metadata = refusal(lambda: client.create("many", delayed, "w0"))
        assert (reason, metadata["limit"]) == ("LIMIT_EXCEEDED", "state_bytes_max")
        assert int(metadata["value"]) == (3 + 1 + kept) * LAYOUT.size_bytes
        client.create("three-more", SPEC, "w0")
