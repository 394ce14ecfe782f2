"""An event log tells everything or ends; it never harms the job that it is of."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.core import JobMachine
from optimd_server.core.events import CreateRequested, JoinRequested, Push, PushCommitted, UploadCompleted, Version
from optimd_server.core.log import event_of, replay
from optimd_server.runtime import ServerConfig, eventlog
from optimd_server.runtime.eventlog import EventLog, open_event_log, read_event_log
from optimdpb.program import main
from optimdpb.specs import SGD

from tests.support.servers import ThreadServer
from tests.support.trainer import spec_of

ARGUMENTS = {"lease_s": 10.0, "tick_interval_s": 0.25, "epochs_from": 1}
SPEC = spec_of(SGD(0.1), 4)
ONES = {"w": np.ones(4, np.float32)}


def opened(folder: Path, job: str = "j", **config: Any) -> EventLog | None:
    return open_event_log(ServerConfig(threads=1, event_log_dir=folder, **config), job, SPEC, ARGUMENTS)


def test_jobs_of_similar_names_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["team/a", "team.a", "x" * 70 + "1", "x" * 70 + "2"]
    logs = [opened(tmp_path, name) for name in names]
    assert len({log.path for log in logs if log is not None}) == len(names)
    for log in logs:
        assert log is not None
        log.close()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), MemoryError(), RuntimeError("a defect")], ids=repr
)
def test_what_cannot_be_written_is_said_once_and_ends_it(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = opened(tmp_path)
    assert log is not None
    log.event(JoinRequested("w0"), 1.0)
    real = log._file

    class Broken:
        closed = False

        def write(self, _: str) -> None:
            raise error

        def close(self) -> None:
            self.closed = True
            real.close()
            raise error

    log._file = Broken()  # type: ignore[assignment]
    for _ in range(3):
        log.event(JoinRequested("w1"), 2.0)
    assert len([record for record in caplog.records if "ends here" in record.message]) == 1
    assert real.closed
    _, events = read_event_log(log.path)
    assert [event["worker"] for _, event in events] == ["w0"]


def test_it_ends_at_its_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = opened(tmp_path, event_log_bytes_max=2000)
    assert log is not None
    for _ in range(1000):
        log.event(JoinRequested("w0"), 1.0)
    assert 1800 < log.path.stat().st_size <= 2000
    assert len([record for record in caplog.records if "event_log_bytes_max" in record.message]) == 1
    assert len(read_event_log(log.path)[1]) > 10


def test_a_job_whose_log_cannot_be_made_trains_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    no_folder = tmp_path / "a file"
    no_folder.write_text("")
    config = ServerConfig(threads=1, event_log_dir=no_folder)
    with ThreadServer(config) as server, optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(ONES, optimd.SGD(1.0), optimd.Async())
        worker.pull()
        assert worker.step(ONES).status == "applied"
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["without an event log" in record.message for record in warnings] == [True]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "of a disk"), MemoryError(), RuntimeError("a defect")], ids=repr)
def test_whatever_fails_while_a_log_is_made_is_said_and_ends_no_job(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> str:
        raise error

    monkeypatch.setattr(eventlog, "folder_name", fail)
    assert opened(tmp_path) is None
    assert "job j goes on without an event log" in caplog.text


@pytest.mark.parametrize("bytes_max", [1, 4096], ids=["on threads", "on the loop"])
def test_a_job_trains_on_when_its_log_cannot_be_written(
    bytes_max: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The device is full from the first byte on."""
    log, job = tmp_path / "log", "j"
    config = ServerConfig(threads=2, event_log_dir=log, one_thread_bytes_max=bytes_max)
    with ThreadServer(config) as server, optimd.connect(server.address, job=job, worker="w0") as worker:
        worker.ensure_job(ONES, optimd.SGD(1.0), optimd.Async())
        worker.pull()
        event_log = server.host(job).event_log
        assert event_log is not None
        with Path("/dev/full").open("w") as full:
            server.on_loop(lambda: os.dup2(full.fileno(), event_log._file.fileno()))
        for _ in range(3):
            assert worker.step(ONES).status == "applied"
        assert worker.status().failure == ""
        assert worker.pull()["w"].tolist() == [-2.0] * 4
        assert server.on_loop(lambda: event_log._file.closed)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_the_log_is_json_and_every_number_comes_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    assert log is not None
    pushes = [Push("w0", 1, 1, Version("l", 0), 1.0, loss) for loss in (math.nan, math.inf, -math.inf, 0.1, None)]
    sent = [PushCommitted(push, magnitude) for push in pushes for magnitude in (math.inf, 1e-300)]
    for event in sent:
        log.event(event, 1.0)
    log.close()

    def no_constant(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=no_constant)
    _, events = read_event_log(log.path)
    assert [repr(event_of(plain)) for _, plain in events] == [repr(event) for event in sent]


def test_the_replay_ends_where_the_job_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = opened(tmp_path)
    assert log is not None
    story = [CreateRequested("w0"), UploadCompleted(1, "l"), JoinRequested("w0"), JoinRequested("w1")]
    for event in story:
        log.event(event, 1.0)
    log.close()
    real = JobMachine._join

    def join(self: JobMachine, worker: str, now_s: float) -> Any:
        if worker == "w0":
            raise ZeroDivisionError("a defect")
        return real(self, worker, now_s)

    monkeypatch.setattr(JobMachine, "_join", join)
    machine, events = read_event_log(log.path)
    results = [result for _, result in replay(machine, events)]
    assert len(results) == 3
    assert isinstance(results[-1], ZeroDivisionError)
    assert main(["replay", str(log.path)]) == 0
    said = capsys.readouterr().out
    assert "failed: ZeroDivisionError('a defect')" in said
    assert "w1" not in said


def test_it_is_for_the_servers_user_alone(tmp_path: Path) -> None:
    log = opened(tmp_path / "logs")
    assert log is not None
    assert [stat.S_IMODE(path.stat().st_mode) for path in (log.path.parent, log.path)] == [0o700, 0o600]
    log.close()
