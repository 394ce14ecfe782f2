"""`optimd status` as its users run it, against real servers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.specs import SGD, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support import program
from tests.support.calls import RawClient, push_header, push_messages
from tests.support.proxy import Proxy
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (8,)),))
START = np.zeros(8, np.float32)
# Far more than the command allows itself, far less than no bound at all.
FEW_SECONDS = 20.0


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, lease_s=60.0)) as running:
        yield running


def push(
    client: RawClient, worker: str, epoch: int, seq: int, value: float = 1.0, loss: float | None = None
) -> pb.Outcome:
    """A push to job "digits" and its outcome."""
    base, _ = client.pull("digits")
    header = push_header("digits", worker, epoch, seq, base, LAYOUT, loss=loss)
    outcome: pb.Outcome = client.call("Push", push_messages(header, np.full(8, value, np.float32))).outcome
    return outcome


def told(capsys: pytest.CaptureFixture[str], address: str, *arguments: str) -> str:
    """What a run that ends well prints."""
    return program.told(capsys, "status", "--server", address, *arguments)


def test_a_waiting_job_says_for_whom(
    server: ThreadServer, client: RawClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.create_ready("digits", JobSpec(LAYOUT, SGD(0.5), Sync(2)), START)
    epochs = {name: client.join("digits", name).epoch for name in ("w0", "w1")}
    base, _ = client.pull("digits")
    header = push_header("digits", "w0", epochs["w0"], 1, base, LAYOUT)
    waiting = client.start("Push", push_messages(header, START))
    eventually(lambda: server.last_seq("digits", "w0", epochs["w0"]) == 1, "the push to be taken")
    client.join("digits", "w2")
    text = told(capsys, server.address)
    assert text.startswith(f"digits: ready, global step 0, lineage {base.lineage[:8]}\n  no round applied yet\n")
    assert "\n  waiting for: round 0 waits for w1 (last seen " in text
    rows = [line.split() for line in text.splitlines()[-3:]]
    assert [(row[0], row[2], row[3], row[8]) for row in rows[:2]] == [
        ("w0", str(epochs["w0"]), "1", "yes"),
        ("w1", str(epochs["w1"]), "0", "yes"),
    ]
    assert (rows[2][0], rows[2][8]) == ("w2", "no")
    push(client, "w1", epochs["w1"], 1, loss=0.25)
    assert waiting.result(30).outcome.status == pb.OUTCOME_STATUS_APPLIED
    text = told(capsys, server.address)
    assert "digits: ready, global step 1, " in text
    assert "\n  last round: learning rate 0.5, loss 0.25\n  pushes: 2 applied, " in text


def test_a_broken_worker_is_marked(server: ThreadServer, client: RawClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.create_ready("digits", JobSpec(LAYOUT, SGD(0.5), Sync(1)), START)
    epoch = client.join("digits", "w0").epoch
    for seq in (1, 2, 3):
        assert push(client, "w0", epoch, seq, np.nan).status == pb.OUTCOME_STATUS_REJECTED
    text = told(capsys, server.address, "--job", "digits")
    assert "pushes: 0 applied, 0 discarded, 3 rejected, 0 duplicates" in text
    assert text.endswith("3 pushes running rejected: is it broken?\n")


def test_json_parses_and_has_every_job_and_worker(
    server: ThreadServer, client: RawClient, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = JobSpec(LAYOUT, SGD(0.5), Sync(30))
    client.create("created", spec, "w0")
    client.create_ready("digits", spec, START)
    names = [f"w{rank:02}" for rank in range(30)]
    for name in names:
        client.join("digits", name)
    run = told(capsys, server.address, "--json")
    found = json.loads(run)
    assert found["address"] == server.address
    created, digits = found["jobs"]
    assert (created["job"], created["state"], created["lineage"]) == ("created", "initializing", "")
    assert (created["learning_rate"], created["loss"], created["workers"]) == (None, None, [])
    assert (digits["job"], digits["state"]) == ("digits", "ready")
    assert [worker["worker"] for worker in digits["workers"]] == names
    assert [worker["rank"] for worker in digits["workers"]] == list(range(30))
    assert all(0 < worker["lease_left_s"] <= 60 for worker in digits["workers"])
    alone = json.loads(told(capsys, server.address, "--job", "digits", "--json"))
    assert [job["job"] for job in alone["jobs"]] == ["digits"]
    assert "  ... and 10 more\n" in told(capsys, server.address)


def test_a_server_without_jobs(server: ThreadServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, server.address) == f"no jobs on {server.address}\n"


def failed(status: int, address: str, *arguments: str) -> str:
    """What the program says when it fails, in one line and within a few seconds."""
    started_s = time.monotonic()
    run = program.child("status", "--server", address, *arguments)
    assert time.monotonic() - started_s < FEW_SECONDS
    assert (run.returncode, run.stdout) == (status, "")
    (line,) = run.stderr.splitlines()
    return line


def test_an_unknown_job(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("digits", JobSpec(LAYOUT, SGD(0.5), Sync(1)), START)
    line = failed(1, server.address, "--job", "digit")
    assert line == f"optimd status: expected a job of {server.address}, got 'digit'; it has digits"


def test_a_server_that_is_not_there() -> None:
    line = failed(3, "127.0.0.1:1")
    assert line.startswith("optimd status: expected a server at 127.0.0.1:1, it cannot be reached: ")


def test_a_server_that_does_not_answer(server: ThreadServer) -> None:
    with Proxy(server.address) as proxy:
        proxy.hold_answers = True
        line = failed(3, proxy.address, "--timeout-s", "1")
    assert line.startswith(f"optimd status: expected a server at {proxy.address}, it cannot be reached: DEADLINE")
