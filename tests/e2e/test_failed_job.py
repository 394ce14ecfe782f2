"""What fails inside one job fails that job alone: it says so to everybody, and the other jobs and the server go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from optimd_server.core.events import Applied, Ticked
from optimd_server.runtime import JobHost, ServerConfig
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, reason_of
from tests.support.program import job_text
from tests.support.servers import ThreadServer

ELEMENTS = 1000
ONES = {"w": np.ones(ELEMENTS, np.float32)}
ZEROS = {"w": np.zeros(ELEMENTS, np.float32)}
SMALL = ServerConfig(threads=1, lease_s=30.0)
LARGE = ServerConfig(threads=2, lease_s=30.0, shards=2, inline_bytes_max=0, one_thread_bytes_max=0)
CONFIGS = pytest.mark.parametrize("config", [SMALL, LARGE], ids=["on the loop", "on threads"])


def fails(host: JobHost, what: str, error: Exception) -> None:
    """From now on something in the job raises."""

    def broken(*_: object) -> Any:
        raise error

    places: dict[str, tuple[Any, str]] = {
        "Apply": (host.shards.shards[-1], "apply"),
        "Prepare": (host.shards.shards[-1], "prepare"),
        "memory": (host.shards.shards[-1], "make_room"),
    }
    if what in places:
        setattr(*places[what], broken)
        return
    kind = {"Applied": Applied, "Ticked": Ticked}[what]
    real = host.machine.handle

    def handle(event: Any, now_s: float) -> Any:
        return broken() if isinstance(event, kind) else real(event, now_s)

    host.machine.handle = handle  # type: ignore[method-assign]


class Scene:
    """Job "bad" of two workers and job "good" of one, both two steps on."""

    def __init__(self, config: ServerConfig, clip: optimd.Clip | None = None) -> None:
        self.server = ThreadServer(config)
        self.address = self.server.address
        self.client = RawClient(self.address)
        self.good = optimd.connect(self.address, job="good", worker="w0", timeout_s=20)
        self.good.ensure_job(ZEROS, optimd.SGD(1.0), optimd.Sync(workers=1))
        self.workers = [optimd.connect(self.address, job="bad", worker=f"w{i}", timeout_s=20) for i in range(2)]
        for worker in self.workers:
            worker.ensure_job(ZEROS, optimd.SGD(1.0), optimd.Sync(workers=2), clip=clip)
        self.good.pull()
        self.together(lambda worker: worker.pull())
        for _ in range(2):
            self.good.step(ONES)
            self.together(lambda worker: worker.step(ONES))

    def together(self, work: Callable[[optimd.Worker], Any]) -> list[Any]:
        """Each worker of the bad job in its thread; what it returned or raised."""
        results: list[Any] = [None, None]

        def run(place: int) -> None:
            try:
                results[place] = work(self.workers[place])
            except Exception as error:
                results[place] = error

        threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "it hangs"
        return results

    def break_it(self, what: str, error: Exception | None = None) -> None:
        """See fails()."""
        host = self.server.host("bad")
        self.server.on_loop(lambda: fails(host, what, error or RuntimeError("put there by a test")))

    def check(self, *, trusted: bool) -> None:
        """The bad job says so in every way, the good one knows nothing of it."""
        host = self.server.host("bad")
        told = self.workers[0].status()
        assert told.state == "failed"
        assert "job 'bad' failed at step 2" in told.failure
        assert "incident" in told.failure
        assert host.is_trusted == trusted
        assert f"  {told.failure}\n" in job_text("bad", told)
        for work in (optimd.Worker.pull, optimd.Worker.pause, optimd.Worker.resume):
            with pytest.raises(Refused) as refused:
                work(self.workers[0])
            assert refused.value.reason == "JOB_FAILED"
        self.good.step(ONES)
        assert self.good.pull()["w"].tolist() == [-3.0] * ELEMENTS
        assert self.good.status().failure == ""

    def close(self) -> None:
        """Everything."""
        for worker in (self.good, *self.workers):
            worker.close()
        self.client.__exit__()
        self.server.stop()


@pytest.fixture
def scenes() -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(config: ServerConfig, **how: Any) -> Scene:
        made.append(Scene(config, **how))
        return made[-1]

    yield make
    for scene in made:
        scene.close()


@CONFIGS
@pytest.mark.parametrize(("what", "trusted"), [("Apply", False), ("Applied", False), ("memory", True)])
def test_an_update_that_fails_ends_every_call_of_its_job_and_no_other(
    config: ServerConfig, what: str, trusted: bool, scenes: Callable[..., Scene]
) -> None:
    scene = scenes(config)
    scene.break_it(what)
    results = scene.together(lambda worker: worker.step(ONES))
    assert [getattr(result, "reason", result) for result in results] == ["JOB_FAILED", "JOB_FAILED"]
    scene.check(trusted=trusted)


@CONFIGS
def test_sums_that_fail_leave_a_job_that_can_be_saved(
    config: ServerConfig, scenes: Callable[..., Scene], tmp_path: Path
) -> None:
    config = ServerConfig(**{**vars(config), "data_dir": tmp_path})
    scene = scenes(config, clip=optimd.ClipGlobalNorm(1e9))
    scene.break_it("Prepare", MemoryError("no room"))
    results = scene.together(lambda worker: worker.step(ONES))
    assert [getattr(result, "reason", result) for result in results] == ["JOB_FAILED", "JOB_FAILED"]
    scene.check(trusted=True)
    scene.close()
    with ThreadServer(config) as server:
        worker = optimd.connect(server.address, job="bad", observer=True)
        assert worker.status().state == "ready"
        assert worker.pull()["w"].tolist() == [-2.0] * ELEMENTS
        worker.close()


@CONFIGS
def test_a_tick_that_fails_is_its_own_jobs(config: ServerConfig, scenes: Callable[..., Scene]) -> None:
    scene = scenes(config)
    waiting: list[Any] = []
    thread = threading.Thread(
        target=lambda: waiting.append(scene.together(lambda w: w is scene.workers[1] or w.push(ONES)))
    )
    thread.start()
    host = scene.server.host("bad")
    eventually(lambda: bool(scene.server.on_loop(host.machine.rounds.unanswered)), "a push that waits")
    scene.break_it("Ticked")
    thread.join(30)
    assert waiting[0][0].reason == "JOB_FAILED", "it waited for the other worker, and was told at once"
    scene.check(trusted=False)
    assert not scene.server.runtime._ticking.done()


def fails_once(owner: Any, name: str, error: Exception) -> list[str]:
    """The next call of a function raises; the names of those that have."""
    real, met = getattr(owner, name), []

    def once(*arguments: Any, **named: Any) -> Any:
        if not met:
            met.append(name)
            raise error
        return real(*arguments, **named)

    setattr(owner, name, once)
    return met


@pytest.mark.parametrize(
    ("config", "owner", "name"),
    [
        (SMALL, lambda host: host.shards, "flat_parameters"),
        (SMALL, lambda host: host.shards.shards[0], "stage"),
        (SMALL, lambda host: host.parameters.messages, "make"),
        (LARGE, lambda host: host.parameters.messages, "make"),
    ],
    ids=["a step's parameters", "a gradient", "parameters on the loop", "parameters on threads"],
)
def test_who_finds_no_memory_comes_again_and_nothing_is_lost(
    config: ServerConfig, owner: Callable[[JobHost], Any], name: str, scenes: Callable[..., Scene]
) -> None:
    scene = scenes(config)
    host = scene.server.host("bad")
    met = scene.server.on_loop(lambda: fails_once(owner(host), name, MemoryError()))
    for _ in range(2):
        results = scene.together(lambda worker: worker.step(ONES))
        assert [getattr(result, "status", result) for result in results] == ["applied"] * 2
    observer = optimd.connect(scene.address, job="bad", observer=True, timeout_s=20)
    assert observer.pull()["w"].tolist() == [-4.0] * ELEMENTS
    assert observer.status().failure == ""
    observer.close()
    assert met == [name]
    assert scene.server.on_loop(lambda: host.shards.staged) == {}


def test_a_step_without_parameters_does_not_say_that_the_push_was_not_taken(
    scenes: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    """The reason why they cannot be sent would: the next gradient would go out under the same seq, and be lost."""
    caplog.set_level(logging.INFO)
    scene = scenes(SMALL)
    host = scene.server.host("bad")
    error = Refused("JOB_FAILED", "between its outcome and its parameters")
    met = scene.server.on_loop(lambda: fails_once(host.parameters, "copied", error))
    for _ in range(2):
        results = scene.together(lambda worker: worker.step(ONES))
        assert [getattr(result, "status", result) for result in results] == ["applied"] * 2
    assert met
    assert "the push has its outcome, and the parameters cannot be sent: between its outcome" in caplog.text
    assert scene.server.vectors("bad")[0].tolist() == [-4.0] * ELEMENTS


def test_workers_of_a_failed_job_renew_their_leases_no_more(scenes: Callable[..., Scene]) -> None:
    scene = scenes(ServerConfig(**{**vars(SMALL), "lease_s": 0.6}))
    alive = {thread.name for thread in threading.enumerate()} & {"optimd-lease-w0", "optimd-lease-w1"}
    assert alive, "they are renewed while the job goes on"
    scene.break_it("Ticked")
    scene.good.leave()
    eventually(lambda: not any("optimd-lease" in thread.name for thread in threading.enumerate()), "heartbeats to end")


def test_an_untrusted_job_is_not_saved_and_the_others_are(scenes: Callable[..., Scene], tmp_path: Path) -> None:
    config = ServerConfig(**{**vars(SMALL), "data_dir": tmp_path})
    scene = scenes(config)
    saved = scene.good.status()
    scene.workers[0].snapshot()
    scene.together(lambda worker: worker.step(ONES))
    scene.break_it("Apply")
    scene.together(lambda worker: worker.step(ONES))
    with pytest.raises(Refused) as refused:
        scene.workers[0].snapshot()
    assert refused.value.reason == "JOB_FAILED"
    with pytest.raises(Refused, match="job 'bad' failed"):
        scene.close()
    with ThreadServer(config) as server:
        good, bad = (optimd.connect(server.address, job=job, observer=True) for job in ("good", "bad"))
        assert good.status().global_step == saved.global_step
        assert bad.status().global_step == 2
        assert bad.status().history[-1].change == "restored with loss"
        good.close()
        bad.close()


def test_outcomes_that_were_told_are_told_again_and_who_leaves_may_go(scenes: Callable[..., Scene]) -> None:
    scene = scenes(SMALL)
    epoch = scene.workers[0]._membership.epoch
    scene.break_it("Ticked")
    eventually(lambda: scene.workers[0].status().state == "failed", "the job to have failed")
    client = scene.client
    ask = pb.AwaitOutcomeRequest(job="bad", worker="w0", epoch=epoch, seq=2)
    assert client.call("AwaitOutcome", ask).outcome.applied_step == 1
    calls = {
        "AwaitOutcome": pb.AwaitOutcomeRequest(job="bad", worker="w0", epoch=epoch, seq=3),
        "Heartbeat": pb.HeartbeatRequest(job="bad", worker="w0", epoch=epoch),
        "Join": pb.JoinRequest(job="bad", worker="w9"),
        "OpenSharedMemory": pb.OpenSharedMemoryRequest(job="bad", worker="w0", epoch=epoch),
        "StartRangeTest": pb.StartRangeTestRequest(job="bad", request_id="x", lr_start=0.1, lr_end=1.0, steps=10),
    }
    for name, request in calls.items():
        with pytest.raises(grpc.RpcError) as refused:
            client.call(name, request)
        assert reason_of(refused.value)[0] == "JOB_FAILED", name
    client.call("Leave", pb.LeaveRequest(job="bad", worker="w0", epoch=epoch))
    listed = client.call("ListJobs", pb.ListJobsRequest()).jobs
    assert {job.job: pb.JobState.Name(job.state) for job in listed} == {
        "bad": "JOB_STATE_FAILED",
        "good": "JOB_STATE_READY",
    }
