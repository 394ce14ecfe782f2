"""What ensure_job does where a job of the name is there already, and how a job is made longer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import SPEC, eventually
from tests.support.calls import RawClient
from tests.support.program import said, told
from tests.support.servers import ThreadServer

ONES = {"w": np.ones(4, np.float32)}
NEW = {"w": np.full(4, 7.0, np.float32)}
CREATED = optimd.JobStart(created=True, global_step=0, finished=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, lease_s=2.0, tick_interval_s=0.05, data_dir=tmp_path)) as running:
        yield running


def run(
    server: ThreadServer, steps: int, start: dict[str, Any] = ONES, rule: Any = None, name: str = "w0", **options: Any
) -> tuple[optimd.JobStart, list[float]]:
    """A whole training script: how it found its job, and its parameters at the end."""
    with optimd.connect(server.address, job="j", worker=name, timeout_s=10.0) as worker:
        model = options.pop("consistency", optimd.Sync(1))
        found = worker.ensure_job(start, rule or optimd.SGD(1.0), model, **options)
        parameters = worker.pull()
        for _ in range(steps):
            parameters = worker.step(ONES).parameters
        return found, parameters["w"].tolist()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("optimd.")]


def test_the_cell_run_again_is_told_that_its_parameters_were_not_used(
    server: ThreadServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(server, 3) == (CREATED, [-2.0] * 4)
    assert warnings(caplog) == []
    assert run(server, 1, NEW) == (optimd.JobStart(created=False, global_step=3, finished=False), [-3.0] * 4)
    (words,) = warnings(caplog)
    assert words.startswith(
        "job 'j' exists and is at step 3: it goes on from there, and the parameters given here were"
    )
    assert "if_exists='replace' begins anew" in words


def test_workers_that_join_in_a_beginning_are_told_nothing(
    server: ThreadServer, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(3) as pool:
        model = optimd.Sync(3, workers_min=1)
        found = list(pool.map(lambda name: run(server, 0, name=name, consistency=model)[0], ("w0", "w1", "w2")))
    assert sorted(start.created for start in found) == [False, False, True]
    assert [start.global_step for start in found] == [0, 0, 0]
    assert not [words for words in warnings(caplog) if "were not used" in words]


def test_replace_begins_anew_with_the_same_specification(server: ThreadServer, tmp_path: Path) -> None:
    run(server, 3)
    assert run(server, 1, NEW, if_exists="replace") == (CREATED, [6.0] * 4)
    assert run(server, 0, NEW, if_exists="replace") == (CREATED, [7.0] * 4)


def test_replace_begins_anew_with_another_specification(server: ThreadServer, tmp_path: Path) -> None:
    run(server, 3)
    with optimd.connect(server.address, job="j", observer=True) as observer:
        observer.snapshot()
    with pytest.raises(optimd.JobMismatch):
        run(server, 1, NEW, optimd.Adam(0.1))
    assert run(server, 1, NEW, optimd.SGD(2.0), if_exists="replace") == (CREATED, [5.0] * 4)
    assert len(list(tmp_path.glob("*.deleted-*"))) == 1, "what was saved is put aside"


def test_replace_takes_a_failed_job_and_makes_one_where_there_is_none(server: ThreadServer) -> None:
    assert run(server, 1, if_exists="replace")[0] == CREATED
    host = server.host("j")
    server.on_loop(lambda: host.fail(RuntimeError("a defect"), "planted", trusted=False))
    assert run(server, 1, NEW, if_exists="replace") == (CREATED, [6.0] * 4)


def test_several_workers_may_all_say_replace(server: ThreadServer) -> None:
    """One of them replaces the old run; nobody replaces the new one."""
    run(server, 3)
    together = threading.Barrier(3)

    def worker(name: str) -> tuple[optimd.JobStart, list[float]]:
        together.wait(10)
        return run(server, 2, NEW, optimd.SGD(2.0), name, consistency=optimd.Sync(3), if_exists="replace")

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(worker, ("w0", "w1", "w2")))
    assert sorted(start.created for start, _ in found) == [False, False, True]
    assert [parameters for _, parameters in found] == [[3.0] * 4] * 3


@pytest.mark.parametrize("is_ready", [True, False])
def test_what_another_worker_has_put_in_its_place_is_not_replaced(server: ThreadServer, *, is_ready: bool) -> None:
    """Also where that happens between the two calls by which a worker finds out."""
    run(server, 3)

    def replace() -> None:
        if is_ready:
            assert run(server, 0, NEW, optimd.SGD(2.0), "w0", if_exists="replace")[0] == CREATED
            return
        with RawClient(server.address) as client:
            client.call("DeleteJob", pb.DeleteJobRequest(job="j"))
            client.create("j", SPEC, "w0")

    with optimd.connect(server.address, job="j", worker="w1") as worker:
        transport: Any = worker._session.transport
        real, asked, deleted = transport.call, [], []

        def call(method: str, request: Any, timeout_s: float) -> Any:
            if method == "GetJob" and not asked:
                asked.append(method)
                replace()
            deleted.extend([method] if method == "DeleteJob" else [])
            return real(method, request, timeout_s)

        transport.call = call
        start = worker.ensure_job(NEW, optimd.SGD(2.0), optimd.Sync(1), if_exists="replace")
        assert start.created is not is_ready
    assert asked
    assert not deleted


def test_replace_waits_for_those_who_work_on_the_job(server: ThreadServer, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that was killed is gone with its lease; one that lives is never robbed of its job."""
    model = optimd.Async()
    with optimd.connect(server.address, job="j", worker="other") as other:
        other.ensure_job(ONES, optimd.SGD(1.0), model)
        other.pull()
        other.step(ONES)
        with (
            optimd.connect(server.address, job="j", worker="w0", timeout_s=0.5) as worker,
            pytest.raises(Refused, match="others work on it: other: stop them, or let one worker say") as refused,
        ):
            worker.ensure_job(NEW, optimd.SGD(1.0), model, if_exists="replace")
        assert refused.value.reason == "WRONG_STATE"
        assert other.step(ONES).status == "applied"
        assert any("waiting for them to leave" in words for words in warnings(caplog))
        other.close()  # as after kill -9: it does not leave
        assert run(server, 1, NEW, consistency=model, if_exists="replace") == (CREATED, [6.0] * 4)


def test_error_refuses_a_job_that_has_begun(server: ThreadServer) -> None:
    assert run(server, 1, if_exists="error")[0] == CREATED
    with pytest.raises(Refused, match=r"expected no job that has begun.*job 'j' exists and is at step 1") as refused:
        run(server, 1, if_exists="error")
    assert refused.value.reason == "WRONG_STATE"
    with pytest.raises(ValueError, match="if_exists"):
        run(server, 1, if_exists="Replace")


def mismatch(server: ThreadServer, **options: Any) -> str:
    with pytest.raises(optimd.JobMismatch) as refused:
        run(server, 0, **options)
    return str(refused.value)


def test_a_mismatch_names_ways_out_that_work(server: ThreadServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(server, 2, steps_max=2)
    words = mismatch(server, steps_max=2, rule=optimd.SGD(0.5))
    assert words.startswith(
        "the job exists with another optimizer.lr: it has 1.0, the request has 0.5. Take another job"
    )
    assert "if_exists='replace'" in words
    assert "optimd set-lr" in words
    words = mismatch(server, steps_max=4)
    assert words.startswith("the job exists with another steps_max: it has 2, the request has 4. Take another job name")
    assert "optimd set-steps" in words
    at = ("--job", "j", "--server", server.address)
    status, _, err = said(capsys, "set-lr", *at, "--schedule", "0.5")
    assert (status, "the job is FINISHED" in err) == (1, True)
    assert told(capsys, "set-steps", *at, "4") == "j: revision 1 holds from step 2 on\n"
    told(capsys, "set-lr", *at, "--schedule", "0.5")
    found, parameters = run(server, 2, steps_max=4, rule=optimd.SGD(0.5))
    assert found == optimd.JobStart(created=False, global_step=2, finished=False)
    assert parameters == [-2.0] * 4
    assert "j: finished, global step 4 of 4, lineage" in told(capsys, "status", "--server", server.address)


def test_the_script_as_it_was_still_knows_its_job(server: ThreadServer, caplog: pytest.LogCaptureFixture) -> None:
    run(server, 2, steps_max=2)
    assert run(server, 0, steps_max=2)[0] == optimd.JobStart(created=False, global_step=2, finished=True)
    assert "has finished at step 2" in warnings(caplog)[0]
    assert "set_steps() makes it longer" in warnings(caplog)[0]
    with optimd.connect(server.address, job="j", observer=True) as observer:
        assert observer.set_steps(3, expected_revision=0) == optimd.Change(revision=1, at_step=2)
        assert observer.status().steps_max == 3
        for too_low in (2, 1, 0, -1):
            with pytest.raises(Refused, match="steps_max: expected above the job's step 2"):
                observer.set_steps(too_low)
    assert run(server, 1, steps_max=2)[1] == [-2.0] * 4


def test_a_restored_job_is_made_longer_and_stays_so(tmp_path: Path) -> None:
    data = ServerConfig(threads=1, data_dir=tmp_path / "d", event_log_dir=tmp_path / "e")
    with ThreadServer(data) as server:
        run(server, 2, steps_max=2)
    with ThreadServer(data) as server, optimd.connect(server.address, job="j", observer=True) as observer:
        assert observer.status().state == "finished"
        observer.set_steps(4)
        assert observer.status().state == "ready"
        run(server, 1, steps_max=4)
    with ThreadServer(data) as server:
        assert run(server, 1, steps_max=4)[1] == [-3.0] * 4
        with optimd.connect(server.address, job="j", observer=True) as observer:
            assert observer.status().state == "finished"
            assert [entry.change for entry in observer.status().history if entry.revision] == ["steps_max = 4"]


def test_a_worker_that_stayed_goes_on_with_a_longer_job(server: ThreadServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(ONES, optimd.SGD(1.0), optimd.Sync(1), steps_max=1)
        worker.pull()
        assert worker.step(ONES).finished
        assert worker.step(ONES).reason == "finished"
        worker.set_steps(2)
        eventually(lambda: worker.status().state == "ready", "the job to go on")
        result = worker.step(ONES)
        assert (result.status, result.global_step, result.finished) == ("applied", 2, True)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "optimd")
