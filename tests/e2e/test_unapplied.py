"""Pushes that come to nothing are told, and in the end stop a training loop that trains nothing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import optimd
import pytest

from tests.support.servers import ThreadServer

START = {"w": np.zeros(4, np.float32)}
ONES = {"w": np.ones(4, np.float32)}
HUGE = {"w": np.full(4, 1e30, np.float32)}
SOLO = (START, optimd.SGD(1.0), optimd.Sync(1))


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer() as server:
        yield server


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "optimd.unapplied"]


def test_the_fifth_rejected_push_running_raises_and_the_first_is_told(
    server: ThreadServer, caplog: pytest.LogCaptureFixture
) -> None:
    with optimd.connect(server.address, job="j", worker="a") as worker:
        worker.ensure_job(*SOLO)
        for _ in range(4):
            assert worker.step(HUGE).reason == "too_large"
        worker.step(ONES)
        for _ in range(4):
            worker.step(HUGE)
        with pytest.raises(optimd.PushesNotApplied, match="5 pushes of this worker running") as caught:
            worker.step(HUGE)
        assert caught.value.reason == "too_large"
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.reason) == (str(caught.value), "too_large")
        assert worker.step(ONES).status == "applied", "and it can go on"
    (line,) = told(caplog)
    assert "rejected (too_large): its largest element 1e+30" in line


@pytest.mark.parametrize(("mode", "lines"), [("warn", 1), ("ignore", 0)])
def test_who_says_so_goes_on(server: ThreadServer, mode: str, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    with optimd.connect(server.address, job="j", worker="a", on_rejected=mode) as worker:
        worker.ensure_job(*SOLO)
        for _ in range(12):
            assert worker.step(HUGE).status == "rejected"
    assert len(told(caplog)) == lines


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="on_rejected"):
        optimd.connect("127.0.0.1:1", job="j", worker="a", on_rejected="never")


def test_who_pushes_and_never_pulls_is_told_to(server: ThreadServer) -> None:
    with optimd.connect(server.address, job="j", worker="a") as worker:
        worker.ensure_job(*SOLO)
        worker.push(ONES)
        for _ in range(4):
            assert worker.push(ONES).reason == "late"
        with pytest.raises(optimd.PushesNotApplied, match="pull between pushes") as caught:
            worker.push(ONES)
        assert caught.value.reason == "late"


def test_a_slow_worker_of_a_quorum_is_told_once_and_goes_on(
    server: ThreadServer, caplog: pytest.LogCaptureFixture
) -> None:
    job = (START, optimd.SGD(1.0), optimd.Sync(2, quorum=1))
    with (
        optimd.connect(server.address, job="j", worker="fast") as fast,
        optimd.connect(server.address, job="j", worker="slow") as slow,
    ):
        fast.ensure_job(*job)
        slow.ensure_job(*job)
        fast.pull()
        slow.pull()
        for _ in range(8):
            fast.step(ONES)
            assert slow.step(ONES).reason == "late"
    assert len(told(caplog)) == 1


def test_a_finished_job_is_told_once_to_who_pushes_on_and_not_to_who_stops(
    server: ThreadServer, caplog: pytest.LogCaptureFixture
) -> None:
    with optimd.connect(server.address, job="j", worker="a") as worker:
        worker.ensure_job(*SOLO, steps_max=2)
        finished = False
        while not finished:
            finished = worker.step(ONES).finished
        assert told(caplog) == []
        for _ in range(9):
            worker.step(ONES)
    (line,) = told(caplog)
    assert "the job finished at step 2" in line


def test_steps_lost_by_a_restart_are_told(server: ThreadServer, caplog: pytest.LogCaptureFixture) -> None:
    with optimd.connect(server.address, job="j", worker="a") as worker:
        worker.ensure_job(*SOLO)
        for _ in range(3):
            worker.step(ONES)
        host = server.host("j")

        def go_back() -> None:
            host.machine.state.lineage, host.machine.state.step = "f" * 32, 1
            host.shards.load(host.shards.images(True), 1)
            host.machine.state.note("restored with loss")

        server.on_loop(go_back)
        assert worker.step(ONES).reason == "lineage_changed"
        assert worker.step(ONES).status == "applied"
    (line,) = told(caplog)
    assert "was at step 3 and goes on under another lineage at step 1 (restored with loss), steps lost: 2" in line


@pytest.mark.parametrize("mode", ["raise", "warn"])
def test_a_job_made_anew_is_an_error_to_who_trained_the_old_one(
    server: ThreadServer, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        optimd.connect(server.address, job="j", worker="a", on_rejected=mode) as a,
        optimd.connect(server.address, job="j", worker="b") as b,
    ):
        job = (START, optimd.SGD(1.0), optimd.Async())
        a.ensure_job(*job)
        a.step(ONES)
        a.step(ONES)
        b.delete_job()
        b.ensure_job(*job)
        b.step(ONES)
        a._membership.stop()
        a._membership.member = None  # as after a server that forgot all
        if mode == "raise":
            with pytest.raises(optimd.JobReplaced, match="trained to step 2 is gone"):
                a.step(ONES)
            with pytest.raises(ValueError, match="to be pulled before"):
                a.step(ONES)
            a.pull()
        else:
            a.step(ONES)
            assert any("is gone" in line for line in told(caplog))
        assert a.step(ONES).status == "applied"


def test_the_first_push_of_the_creator_needs_no_pull_and_that_of_others_says_so(server: ThreadServer) -> None:
    with (
        optimd.connect(server.address, job="j", worker="a") as creator,
        optimd.connect(server.address, job="j", worker="b") as other,
    ):
        job = (START, optimd.SGD(1.0), optimd.Async())
        creator.ensure_job(*job)
        assert creator.push(ONES).status == "applied"
        other.ensure_job(*job)
        with pytest.raises(ValueError, match="Only who created the job has them without"):
            other.push(ONES)
