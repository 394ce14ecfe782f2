"""Every event can be logged, and the log tells the same story again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optimd
import pytest
from optimd_server.core.log import replay
from optimd_server.core.saved import saved_state
from optimd_server.runtime import ServerConfig
from optimd_server.runtime.eventlog import read_event_log
from optimdpb.specs import ClipGlobalNorm

from tests.support.program import said, told
from tests.support.servers import ThreadServer

START = {"w": np.zeros(5, np.float32)}
ONES = {"w": np.ones(5, np.float32)}


def trained(folder: Path, data: Path, steps: int) -> dict[str, object]:
    """Some steps, one of them nonsense; the state of the job at the end."""
    config = ServerConfig(threads=1, event_log_dir=folder, data_dir=data)
    with ThreadServer(config) as server:
        with optimd.connect(server.address, job="job/1", worker="w0") as worker:
            worker.ensure_job(START, optimd.Adam(0.1), optimd.Sync(1), clip=ClipGlobalNorm(0.5))
            worker.pull()
            for _ in range(steps):
                worker.step(ONES, weight=0.1, loss=1 / 3)
            worker.step({"w": np.full(5, np.nan, np.float32)})
        return server.on_loop(lambda: saved_state(server.host("job/1").machine))


def test_a_log_replays_to_the_same_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, data = tmp_path / "log", tmp_path / "data"
    for steps in (3, 4):
        expected = trained(log, data, steps)
        path = max(log.iterdir())
        machine, events = read_event_log(path)
        results = list(replay(machine, events))
        assert len(results) == len(events) > 2 * steps
        got = json.loads(json.dumps(saved_state(machine)))
        assert got == json.loads(json.dumps(expected))
    assert len(list(log.iterdir())) == 2, "the second began from a snapshot"
    assert machine.version.step == 7
    printed = told(capsys, "replay", str(path))
    assert "PushCommitted(push=Push(worker='w0'" in printed
    assert "NON_FINITE" in printed
    assert printed.splitlines()[-2].startswith("step 7 of lineage ")
    found = json.loads(told(capsys, "replay", str(path), "--json"))
    assert (found["global_step"], found["failed"], found["lineage"]) == (7, False, machine.version.lineage)
    assert len(found["events"]) == len(events)
    assert all(event.keys() == {"time_s", "event", "led_to"} for event in found["events"])
    named = json.loads(told(capsys, "replay", str(path), "--json", "--worker", "w0"))["events"]
    assert 0 < len(named) <= len(events)
    assert all("w0" in str(event) for event in named)
    assert json.loads(told(capsys, "replay", str(path), "--json", "--worker", "nobody"))["events"] == []


def test_a_log_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    trained(tmp_path / "log", tmp_path / "data", 3)
    (path,) = (tmp_path / "log").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    _, events = read_event_log(path)
    assert len(events) == whole.count(b"\n") - 2


@pytest.mark.parametrize("text", ["", "nonsense\n", '{"a": 1}\n', '{"spec": {}}\n'])
def test_what_is_no_log_is_said_to_be_none(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    for named in (path, tmp_path / "missing"):
        ended, _, err = said(capsys, "replay", str(named))
        assert (ended, "is no event log" in err) == (1, True)
