"""Memberships that begin twice, end by themselves, or mean another job."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from grpc import StatusCode

from tests.e2e.scene import eventually
from tests.unit.client import fake_server
from tests.unit.client.conftest import GRADIENT, START, MakeWorker
from tests.unit.client.fake_server import FakeServer, change, fail, refuse


def test_join_names_the_specification_that_is_meant(server: FakeServer, worker: optimd.Worker) -> None:
    """A job that was made anew under its name, with another rule, is not joined in silence."""
    server.plan("Push", refuse("LEASE_EXPIRED"), refuse("LEASE_EXPIRED"))
    server.plan("Join", lambda process, _: process(), refuse("JOB_MISMATCH"))
    with pytest.raises(optimd.JobMismatch):
        worker.push(GRADIENT)
    digests = {request.spec_digest for request in server.requests("Join")}
    assert digests == {server._spec_digest()}
    assert worker.push(GRADIENT).status == "applied"


def test_a_worker_that_only_steps_means_the_job_it_found(server: FakeServer, make_worker: MakeWorker) -> None:
    make_worker()
    with optimd.connect(server.address, job="j", worker="w1") as other:
        other.pull()
        other.step(GRADIENT)
    assert server.requests("Join")[-1].spec_digest == server._spec_digest()


def test_an_interrupted_join_is_made_again(server: FakeServer, worker: optimd.Worker) -> None:
    """The server has made an epoch that nobody knows: what goes out under the one before is fenced."""
    transport: Any = worker._session.transport
    call = transport.call

    def interrupted(method: str, *arguments: Any) -> Any:
        answer = call(method, *arguments)
        if method == "Join":
            transport.call = call
            raise KeyboardInterrupt
        return answer

    transport.call = interrupted
    with pytest.raises(KeyboardInterrupt):
        worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
    assert worker.step(GRADIENT).status == "applied"
    assert list(server.taken) == [(3, 1)]


def lease_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "optimd-lease-w0"]


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_server, "LEASE_MS", 90)


@pytest.mark.parametrize("after_an_error", [False, True])
@pytest.mark.parametrize("elements", [8, 700_000])
def test_a_worker_that_is_dropped_sends_no_more_heartbeats(
    server: FakeServer,
    short_lease: None,
    caplog: pytest.LogCaptureFixture,
    after_an_error: bool,
    elements: int,
) -> None:
    """Reference counts alone must see to it: no cycle holds it."""
    worker = [optimd.connect(server.address, job="j", worker="w0")]
    worker[0].ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(0.1), optimd.Sync(1))
    worker[0].pull()
    gradient = {"w": np.ones(elements, np.float32)}
    server.plan("Push", fail(StatusCode.UNAVAILABLE))
    worker[0].push(gradient)
    worker[0].step(gradient)
    server.plan("Push", refuse("INVALID_PUSH"))
    server.plan("Step", refuse("INVALID_PUSH"))
    if after_an_error:
        with pytest.raises(optimd.Refused):
            worker[0].step(gradient)
    eventually(lambda: len(server.requests("Heartbeat")) > 2, "heartbeats")
    transport = worker[0]._session.transport
    gone = weakref.ref(worker[0])
    gc.disable()
    try:
        with caplog.at_level(logging.WARNING, "optimd"):
            worker.clear()
            assert gone() is None
            for thread in lease_threads():
                thread.join(10)
    finally:
        gc.enable()
    assert "worker 'w0' of job 'j' was dropped" in caplog.text
    assert not lease_threads()
    assert transport._closed  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", [lambda worker: worker.leave(), lambda worker: worker.close()])
def test_one_that_has_left_or_was_closed_goes_without_a_word(
    server: FakeServer, caplog: pytest.LogCaptureFixture, end: Callable[[optimd.Worker], None]
) -> None:
    worker = optimd.connect(server.address, job="j", worker="w0")
    worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
    end(worker)
    with caplog.at_level(logging.WARNING, "optimd"):
        del worker
        gc.collect()
    assert not caplog.records


def test_a_fenced_worker_is_not_held_by_its_own_error(server: FakeServer, make_worker: MakeWorker) -> None:
    worker = optimd.connect(server.address, job="j", worker="w1")
    worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
    worker.pull()
    server.plan("Push", refuse("EPOCH_SUPERSEDED"))
    for _ in range(2):
        with pytest.raises(optimd.EpochSuperseded):
            worker.push(GRADIENT)
    worker.close()
    gone = weakref.ref(worker)
    gc.disable()
    try:
        del worker
        assert gone() is None
    finally:
        gc.enable()


def test_heartbeats_say_how_long_the_program_has_been_away(
    server: FakeServer, short_lease: None, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    entered, leave = threading.Event(), threading.Event()

    def held(process: Callable[[], Any], _: grpc.ServicerContext) -> Any:
        entered.set()
        leave.wait(30)
        return process()

    def told() -> list[int]:
        return [request.idle_ms for request in server.requests("Heartbeat")]

    eventually(lambda: max(told(), default=0) >= 100, "a heartbeat of an idle worker")
    server.plan("Push", held)
    push = threading.Thread(target=worker.push, args=(GRADIENT,))
    push.start()
    assert entered.wait(30)
    server.calls.clear()
    eventually(lambda: len(told()) >= 4, "heartbeats while it waits")
    assert set(told()[1:]) == {0}
    leave.set()
    push.join(30)


@pytest.mark.parametrize("reason", ["NOT_UPLOADER", "INTERNAL", "PUSH_TOO_SLOW"])
def test_an_upload_that_fails_each_time_comes_to_an_end(server: FakeServer, reason: str) -> None:
    server.plan("UploadParameters", *[refuse(reason)] * 100)
    with (
        optimd.connect(server.address, job="j", worker="w0", timeout_s=0.3) as worker,
        pytest.raises(optimd.ServerUnavailable, match=r"the parameters cannot be uploaded: .*made up"),
    ):
        worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
    assert 2 < len(server.requests("UploadParameters")) < 40


def compute(_: Any) -> tuple[Any, float, float]:
    return GRADIENT, 1.0, 0.5


@pytest.mark.parametrize("steps", [1, 3])
def test_a_range_test_that_ends_without_a_sweep_ends(server: FakeServer, worker: optimd.Worker, steps: int) -> None:
    """No memory, or stopped before it began: the lineage stays as it was."""
    over = change(done=True, end=5, explanation="no memory")
    server.plan("GetRangeTest", *[change()] * steps, over, over)
    result = worker.range_test(compute)
    assert (result.end, result.lr) == ("no_memory", None)
    assert len(server.taken) == steps


def test_a_range_test_of_that_name_with_other_arguments_is_refused(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("StartRangeTest", refuse("INVALID_UPDATE"))
    with pytest.raises(optimd.Refused) as caught:
        worker.range_test(compute)
    assert caught.value.reason == "INVALID_UPDATE"
    assert not server.taken


def test_another_range_test_that_took_its_place_is_said(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("GetRangeTest", change(), change(request_id="other"), change(request_id="other"))
    with pytest.raises(optimd.Refused, match="another one took its place: 'other'"):
        worker.range_test(compute)


def test_a_lease_counts_from_when_join_was_sent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind an answer that came late it may be over already."""
    monkeypatch.setattr(fake_server, "LEASE_MS", 600)

    def late(process: Callable[[], Any], _: grpc.ServicerContext) -> Any:
        answer = process()
        threading.Event().wait(0.7)
        return answer

    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
        assert worker._membership.surely_live
        server.plan("Join", late)
        worker._membership.join()
        assert not worker._membership.surely_live
        eventually(lambda: worker._membership.surely_live, "a heartbeat")


def test_a_step_whose_worker_is_closed_by_another_thread_ends_at_once(
    server: FakeServer, worker: optimd.Worker
) -> None:
    """It would try again on a connection that is gone, for the whole of timeout_s."""
    in_it, goes_on = threading.Event(), threading.Event()

    def hold(process: Callable[[], Any], _: Any) -> Any:
        in_it.set()
        goes_on.wait(10)
        return process()

    raised: list[BaseException] = []

    def step() -> None:
        try:
            worker.step(GRADIENT)
        except BaseException as error:
            raised.append(error)

    server.plan("Step", hold)
    server.plan("Push", hold)
    thread = threading.Thread(target=step)
    thread.start()
    assert in_it.wait(10)
    worker.close()
    thread.join(3)
    goes_on.set()
    assert not thread.is_alive()
    assert isinstance(raised[0], optimd.OutcomeUnknown)
