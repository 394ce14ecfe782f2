"""One clock for all: every update has the rate of its step, through live changes, a pause and a restart."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.core.effects import RoundRecord
from optimd_server.core.log import replay
from optimd_server.runtime.eventlog import read_event_log
from optimd_server.schedules import momentum_of, rate_of
from optimdpb.errors import Refused
from optimdpb.program import main

from tests.e2e.scene import eventually
from tests.support.servers import ServerProcess

WORKERS = 4
START = {"w": np.ones(8, np.float32)}
MODELS = [optimd.Sync(workers=WORKERS), optimd.Async(), optimd.Ssp(staleness=2)]
LIVE_S_MAX = 60.0


class Run:
    """A job of four workers that train until `updates`, and what each was told."""

    def __init__(self, address: str, model: Any, updates: int) -> None:
        self.address, self.model, self.updates = address, model, updates
        third = updates // 3
        # The schedules one after another, and the steps from which they hold.
        self.schedules = [
            optimd.OneCycle(0.1, updates),
            optimd.Sequence(
                [(third, optimd.SGDR(0.1, 0.01, 50, 2)), (10, optimd.Cyclical(0.01, 0.1, 7, "triangular2"))]
            ),
            optimd.Warmup(optimd.Linear(0.1, 0.001, updates), steps=updates // 2),
        ]
        self.borders = [0, third, 2 * third]
        self.pause_step = third + third // 2
        self.told: dict[str, list[float]] = {}
        self.failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(f"w{i}",)) for i in range(WORKERS)]

    def __enter__(self) -> Run:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(10 * LIVE_S_MAX)
        assert not self.failed, self.failed

    def _work(self, name: str) -> None:
        rates = self.told[name] = []
        try:
            with optimd.connect(self.address, job="j", worker=name) as worker:
                rule = optimd.SGDM(self.schedules[0])
                worker.ensure_job(START, rule, self.model, steps_max=self.updates)
                worker.pull()
                while True:
                    result = worker.step({"w": np.full(8, 1e-3, np.float32)}, loss=1.0)
                    if result.status == "applied":
                        rates.append(result.learning_rate)
                    if result.finished:
                        return
        except BaseException as error:
            self.failed.append(error)

    def look(self) -> optimd.Worker:
        """An observer of the job, once it is there."""
        observer = optimd.connect(self.address, job="j", observer=True)

        def there() -> bool:
            try:
                return observer.status().state != "initializing"
            except Refused:
                return False

        eventually(there, "the job", LIVE_S_MAX)
        return observer


def records_of(folder: Path) -> list[RoundRecord]:
    """Every applied round of every server process, in order."""
    found = []
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
        machine, events = read_event_log(path)
        for _, effects in replay(machine, events):
            found += [e for e in effects if isinstance(e, RoundRecord)] if isinstance(effects, list) else []
    return found


@pytest.mark.parametrize(
    "updates", [300, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])], ids=["300", "10000"]
)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_every_update_has_the_rate_of_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Any, updates: int
) -> None:
    arguments = ["--data-dir", str(tmp_path / "data"), "--event-log", str(tmp_path / "log"), "--threads", "1"]
    server = ServerProcess(*arguments)
    try:
        with Run(server.address, model, updates) as run, run.look() as observer:
            observer.set_schedules({"lr": run.schedules[1]}, at_step=run.borders[1])
            observer.pause(at_step=run.pause_step)
            eventually(lambda: observer.status().state == "paused", "the pause", LIVE_S_MAX)
            assert observer.status().global_step == run.pause_step
            assert f"paused at step {run.pause_step}:" in observer.status().waiting_for
            third = f"warmup(linear(0.1, 0.001, {updates}), {updates // 2})"
            at = ("--job", "j", "--server", server.address)
            assert main(["set-lr", *at, "--schedule", third, "--at-step", str(run.borders[2])]) == 0
            assert capsys.readouterr().out == f"j: revision 3 holds from step {run.borders[2]} on\n"
            assert server.terminate() == 0
            server = ServerProcess(*arguments, port=int(server.address.rpartition(":")[2]))
            assert observer.status().state == "paused"
            assert main(["resume", *at]) == 0
        with optimd.connect(server.address, job="j", observer=True) as observer:
            status = observer.status()
        assert (status.state, status.global_step, status.revision) == ("finished", updates, 4)
        assert [entry.change.partition("(")[0] for entry in status.history] == [
            "ready",
            "lr = sequence",
            "paused",
            "lr = warmup",
            "restored",
            "resumed",
        ]
    finally:
        server.stop()
    records = records_of(tmp_path / "log")
    assert [record.step for record in records] == list(range(updates))
    rates = [rate_of(schedule) for schedule in run.schedules]
    momentum = momentum_of(run.schedules[0])
    assert momentum is not None
    for record in records:
        place = sum(record.step >= border for border in run.borders) - 1
        assert record.learning_rate == rates[place](record.step), record.step
        assert dict(record.hyper_parameters).get("momentum") == (momentum(record.step) if place == 0 else None)
    told: dict[str, list[float]] = {name: [] for name in run.told}
    for record in records:
        for worker, _, outcome in record.outcomes:
            told[worker].append(outcome.learning_rate)
            assert (outcome.learning_rate, outcome.applied_step) == (record.learning_rate, record.step)
    assert run.told == told
