"""Every wait of a client, and the sentence in its log that says what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd import words
from optimd_server.runtime import ServerConfig
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import JobSpec, Layout, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient
from tests.support.servers import ThreadServer

START = {"w": np.zeros(4, np.float32)}
ONES = {"w": np.ones(4, np.float32)}


@dataclass
class Stage:
    """A server, and calls that wait on threads of their own."""

    server: ThreadServer
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    workers: list[optimd.Worker] = field(default_factory=list)
    calls: list[Future[Any]] = field(default_factory=list)

    def connect(self, name: str) -> optimd.Worker:
        worker = optimd.connect(self.server.address, job="j", worker=name, timeout_s=1.0)
        self.workers.append(worker)
        return worker

    def join(self, name: str, consistency: Any) -> optimd.Worker:
        worker = self.connect(name)
        worker.ensure_job(START, optimd.SGD(1.0), consistency)
        worker.pull()
        return worker

    def start(self, call: Callable[..., Any], *args: Any) -> None:
        self.calls.append(self.threads.submit(call, *args))


def round_not_open(stage: Stage) -> None:
    stage.start(stage.join("a", optimd.Sync(3)).step, ONES)


def round_waits(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    stage.start(a.step, ONES)


def push_waits(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    stage.start(a.push, ONES)


def a_worker_that_died(stage: Stage) -> None:
    a, b = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    b._membership.leave(failed=True)
    stage.start(a.step, ONES)


def ssp_waits(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Ssp(0)), stage.join("b", optimd.Ssp(0))
    stage.start(a.step, ONES)


def paused(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    a.pause()
    stage.start(a.step, ONES)


def range_test(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    stage.start(a.range_test, lambda _: (ONES, 1.0, 1.0))


def another_uploads(stage: Stage) -> None:
    spec = JobSpec(Layout((Tensor("w", (4,)),)), optimd.SGD(1.0), optimd.Sync(2))
    with RawClient(stage.server.address) as client:
        client.call("CreateJob", pb.CreateJobRequest(job="j", spec=job_spec_to_proto(spec), worker="elsewhere"))
    stage.start(stage.connect("a").ensure_job, START, optimd.SGD(1.0), optimd.Sync(2))


def no_room(stage: Stage) -> None:
    for name in "abc":
        stage.join(name, optimd.Sync(3))
    stage.start(stage.join, "d", optimd.Sync(3))


def server_gone(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.server.stop()
    stage.start(a.step, ONES)


def server_gone_for_a_pull(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.server.stop()
    stage.start(a.pull)


def snapshot(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())

    async def save(_: Any) -> Any:
        await asyncio.sleep(3.0)
        raise OSError("a slow disk")

    stage.server.runtime.save = save  # type: ignore[method-assign]
    stage.start(a.snapshot)


WAITS: dict[str, tuple[Callable[[Stage], None], str]] = {
    "the round is not open": (round_not_open, "round 0 opens with 3 workers: 1 live"),
    "the round waits for another": (round_waits, "round 0 waits for b ("),
    "a push, too": (push_waits, "round 0 waits for b ("),
    "one has died": (a_worker_that_died, "round 0 closes with 2 workers: 1 live"),
    "Ssp": (ssp_waits, "a waits for b ("),
    "paused": (paused, "the job is paused at step 0"),
    "a range test that others do not take part in": (range_test, "round 0 waits for b ("),
    "another creator uploads": (another_uploads, "the job waits for its parameters from elsewhere"),
    "no room for its gradients": (no_room, "trying again: expected room for"),
    "no server, a step": (server_gone, "trying again: UNAVAILABLE"),
    "no server, a pull": (server_gone_for_a_pull, "trying again: UNAVAILABLE"),
    "a snapshot": (snapshot, "the job is at step 0 and waits for nobody: the call is under way"),
}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(words, "SILENCE_S", 0.3)
    with ThreadServer(ServerConfig(threads=2, lease_s=0.9, staging_bytes_max=3 * 16)) as server:
        stage = Stage(server)
        yield stage
        for worker in stage.workers:
            worker._membership.stop()
        server.stop()
        for call in stage.calls:
            call.exception(30)
        stage.threads.shutdown()
        for worker in stage.workers:
            worker.close()


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_says_what_it_waits_for(name: str, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    arrange, sentence = WAITS[name]
    arrange(stage)

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "optimd.words"]

    eventually(lambda: any(sentence in line for line in said()), f"{sentence!r} in the log, got {said()}")
    assert sum(sentence in line for line in said()) == 1, "once"


def test_what_does_not_take_long_is_not_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    a = stage.join("a", optimd.Async())
    for _ in range(3):
        a.step(ONES)
    assert not [record for record in caplog.records if record.name == "optimd.words"]
