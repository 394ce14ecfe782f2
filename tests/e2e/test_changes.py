"""Changing a running job from the shell and from a worker: set-lr, pause, resume."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import optimd
import pytest
from optimdpb.errors import InvalidSpec, Refused

from tests.e2e.scene import eventually
from tests.support.program import said, told
from tests.support.servers import ThreadServer

START = {"w": np.zeros(4, np.float32), "b": np.zeros(2, np.float32)}
GRADIENT = {"w": np.ones(4, np.float32), "b": np.ones(2, np.float32)}
GROUPS = [optimd.Group("b", lr_multiplier=2.0)]
RULE = optimd.SGD(lr=1.0)


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer() as running:
        yield running


@pytest.fixture
def worker(server: ThreadServer) -> Iterator[optimd.Worker]:
    with optimd.connect(server.address, job="j", worker="w0") as connected:
        connected.ensure_job(START, RULE, optimd.Sync(workers=1), groups=GROUPS)
        connected.pull()
        yield connected


def test_a_rate_set_from_the_shell(
    server: ThreadServer, worker: optimd.Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--job", "j", "--server", server.address)
    worker.step(GRADIENT)
    assert said(capsys, "set-lr", *at, "--schedule", "0.5") == (0, "j: revision 1 holds from step 1 on\n", "")
    result = worker.step(GRADIENT)
    assert result.learning_rate == 0.5
    assert result.parameters["w"].tolist() == [-1.5] * 4
    assert result.parameters["b"].tolist() == [-3.0] * 2  # groups multiply what the schedule says
    ended, out, _ = said(capsys, "set-lr", *at, "--set", "weight_decay=linear(0.0, 0.5, 1)", "--at-step", "3", "--json")
    assert (ended, json.loads(out)) == (0, {"job": "j", "revision": 2, "at_step": 3})
    for expected in (-2.0, -2.0):  # the second with half the weights added to the gradient: 1 - 2 / 2
        assert worker.step(GRADIENT).parameters["w"].tolist() == [expected] * 4
    text = told(capsys, "status", "--server", server.address)
    assert "  lr: constant(lr=0.5)\n  weight_decay: linear(lr_start=0.0, lr_end=0.5, steps=1)\n" in text
    assert "  revision 2 holds from step 3: weight_decay = linear(" in text


def test_json_is_a_spelling_too(
    server: ThreadServer, worker: optimd.Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = '{"sgdr": {"lr_max": 0.5, "lr_min": 0.0, "period": 4}}'
    assert said(capsys, "set-lr", "--job", "j", "--server", server.address, "--schedule", schedule)[0] == 0
    assert worker.status().schedules == {"lr": "sgdr(lr_max=0.5, lr_min=0.0, period=4)"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--job", "nobody", "--schedule", "0.1"], "expected a job of this server, got 'nobody'"),
        (["--job", "j", "--schedule", "0.1", "--at-step", "0"], "expected a step from 1 on, got 0"),
        (["--job", "j", "--schedule", "0.1", "--expected-revision", "7"], "expected the job at revision 7, it is at 0"),
        (["--job", "j", "--set", "beta1=0.5"], "schedules.beta1: expected one of weight_decay"),
        (["--job", "j", "--set", "weight_decay=plateau(0.1)"], "only lr may follow the loss"),
    ],
)
def test_what_the_server_refuses(
    server: ThreadServer,
    worker: optimd.Worker,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    worker.step(GRADIENT)
    ended, out, err = said(capsys, "set-lr", *arguments, "--server", server.address)
    assert (ended, out) == (1, "")
    assert err.startswith("optimd set-lr: ")
    assert words in err
    assert worker.status().revision == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--job", "j"], "expected --schedule or --set"),
        (["--job", "j", "--schedule", "sgdr(1)"], "expected a value for lr_min, period"),
        (["--job", "j", "--schedule", "{}"], "expected one kind"),
        (["--job", "j", "--set", "0.1"], "expected NAME=SCHEDULE"),
        (["--job", "j", "--schedule", "0.1", "--server", "nowhere"], "expected HOST:PORT"),
        (["--job", "j", "--sched", "0.1"], "there is no option --sched: did you mean --schedule?"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended, out, err = said(capsys, "set-lr", *arguments)
    assert (ended, out) == (2, "")
    assert words in err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    ended, _, err = said(capsys, "pause", "--job", "j", "--server", "127.0.0.1:1")
    assert ended == 3
    assert "it cannot be reached" in err


def test_pause_and_resume_from_the_shell(
    server: ThreadServer, worker: optimd.Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--job", "j", "--server", server.address)
    assert said(capsys, "pause", *at, "--at-step", "2") == (0, "j: revision 1 holds from step 2 on\n", "")
    results: list[optimd.StepResult] = []
    training = threading.Thread(target=lambda: results.extend(worker.step(GRADIENT) for _ in range(4)))
    training.start()
    with optimd.connect(server.address, job="j", observer=True) as observer:
        eventually(lambda: "paused at step 2" in observer.status().waiting_for, "the pause")
        assert observer.status().state == "paused"
        assert observer.pull()["w"].tolist() == [-2.0] * 4
        assert said(capsys, "resume", *at)[0] == 0
    training.join(30)
    assert [result.global_step for result in results] == [1, 2, 3, 4]


def test_a_worker_changes_and_undoes(worker: optimd.Worker) -> None:
    first = worker.set_schedules({"lr": 0.25}, expected_revision=0)
    assert (first.revision, first.at_step) == (1, 0)
    with pytest.raises(Refused) as refused:
        worker.set_schedules({"lr": 0.125}, expected_revision=0)
    assert refused.value.reason == "REVISION_MISMATCH"
    with pytest.raises(InvalidSpec):
        worker.set_schedules({"lr": -1.0})
    assert worker.step(GRADIENT).learning_rate == 0.25
    worker.set_schedules({"lr": RULE.lr})
    assert worker.step(GRADIENT).learning_rate == 1.0
    assert [entry.requester for entry in worker.status().history] == ["", "w0", "w0"]


def test_workers_that_come_later_still_know_the_job(server: ThreadServer, worker: optimd.Worker) -> None:
    """They compare with what the job was made of; what was changed since comes with the replies."""
    worker.set_schedules({"lr": 0.25, "weight_decay": 0.5})
    with optimd.connect(server.address, job="j", worker="w0") as again:
        again.ensure_job(START, RULE, optimd.Sync(workers=1), groups=GROUPS)
        again.pull()
        assert again.step(GRADIENT).learning_rate == 0.25
