"""The range test on a real server: one curve for all workers, everything put back to the bit, by Python and shell."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from numpy.typing import NDArray
from optimd import range_test
from optimd_server.runtime import ServerConfig
from optimdpb.errors import Refused
from optimdpb.program import main

from tests.e2e.scene import eventually
from tests.support.servers import ServerProcess, ThreadServer

WORKERS = 3
Parameters = dict[str, NDArray[np.float32]]
CONFIGS = {
    "inline": ServerConfig(threads=1),
    "three shards on threads": ServerConfig(threads=2, shards=3, inline_bytes_max=0, one_thread_bytes_max=0),
}
MODELS = [optimd.Sync(workers=WORKERS), optimd.Async(staleness_max=8, delay_compensation=0.1), optimd.Ssp(staleness=1)]
TARGET = np.linspace(-1.0, 1.0, 20_000, dtype=np.float32)


def compute(parameters: Parameters) -> tuple[Parameters, float, float]:
    """A bowl: it diverges above the rate 2."""
    off = parameters["w"] - TARGET
    return {"w": off.astype(np.float32)}, 1.0, float(0.5 * np.mean(off.astype(np.float64) ** 2))


def on_workers(address: str, rule: Any, model: Any, work: Callable[[optimd.Worker], None]) -> None:
    """Each worker joins job "j" and calls work(worker)."""
    failed: list[BaseException] = []

    def run(index: int) -> None:
        try:
            with optimd.connect(address, job="j", worker=f"w{index}") as worker:
                worker.ensure_job({"w": np.zeros(TARGET.size, np.float32)}, rule, model)
                work(worker)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed, failed


def some_steps(worker: optimd.Worker, count: int = 4) -> None:
    parameters = worker.pull()
    for _ in range(count):
        gradients, weight, loss = compute(parameters)
        parameters = worker.step(gradients, weight=weight, loss=loss).parameters


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_one_curve_for_all_and_everything_put_back(config: ServerConfig, model: Any) -> None:
    results: list[optimd.RangeTestResult] = []
    states: list[Any] = []
    gate, barrier = threading.Lock(), threading.Barrier(WORKERS)

    def work(worker: optimd.Worker) -> None:
        some_steps(worker)
        barrier.wait(30)
        with gate:
            if not states:
                states.append((server.vectors("j"), server.on_loop(lambda: server.host("j").machine.version)))
        barrier.wait(30)
        results.append(worker.range_test(compute, lr_start=1e-3, lr_end=100.0, steps=60))
        barrier.wait(30)
        with gate:
            if len(states) == 1:
                states.append((server.vectors("j"), server.on_loop(lambda: server.host("j").machine.version)))
        barrier.wait(30)
        some_steps(worker)

    with ThreadServer(config) as server:
        on_workers(server.address, optimd.Adam(0.05) if model is MODELS[0] else optimd.SGDM(0.05), model, work)
        with optimd.connect(server.address, job="j", observer=True) as observer:
            status = observer.status()
    ((parameters, slots), before), ((parameters_after, slots_after), after) = states
    assert parameters.tobytes() == parameters_after.tobytes()
    assert slots.tobytes() == slots_after.tobytes()
    assert (before.step, before.lineage == after.lineage) == (after.step, False)
    assert results == [results[0]] * WORKERS
    expected = [1e-3 * 1e5 ** (i / 59) for i in range(len(results[0].learning_rates))]
    assert results[0].learning_rates == pytest.approx(expected, rel=1e-12)
    assert status.learning_rate == 0.05
    assert status.global_step > after.step


def test_the_suggestion_of_a_bowl() -> None:
    """With plain descent every rate below 2 converges and none above does."""
    results: list[optimd.RangeTestResult] = []

    def work(worker: optimd.Worker) -> None:
        dice = np.random.default_rng(int((worker.name or "")[1:]))

        def noisy(parameters: Parameters) -> tuple[Parameters, float, float]:
            gradients, weight, loss = compute(parameters)
            return {"w": gradients["w"] + dice.normal(0, 0.1, TARGET.size).astype(np.float32)}, weight, loss

        results.append(worker.range_test(noisy, lr_start=1e-4, lr_end=100.0, steps=200))

    with ThreadServer() as server:
        on_workers(server.address, optimd.SGD(0.05), MODELS[0], work)
    found = results[0]
    assert found.end == "diverged"
    assert found.lr_base is not None
    assert found.lr_max is not None
    assert 0.01 < found.lr_base < 0.3
    assert 1.0 < found.lr_max < 4.0  # the noise grows before 2, and beyond it the bowl takes some steps
    assert found.lr == pytest.approx(math.sqrt(found.lr_base * found.lr_max))
    assert "the edge of divergence" in found.explanation


def test_a_late_worker_gets_the_result() -> None:
    with ThreadServer() as server, optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(TARGET.size, np.float32)}, optimd.SGD(0.1), optimd.Async())
        found = worker.range_test(compute, steps=20)
        with optimd.connect(server.address, job="j", observer=True) as late:
            assert late.range_test(lambda _: pytest.fail("it computes nothing any more"), steps=20) == found
        assert worker.range_test(compute, steps=20, name="again") == found  # the same start, the same batches


def test_a_server_that_lost_the_test_makes_it_again(tmp_path: Path) -> None:
    """It was killed in the middle: what it restores is from before the test."""
    arguments = ["--data-dir", str(tmp_path)]
    server = ServerProcess(*arguments)
    kills = iter([False] * 5 + [True])
    try:
        with optimd.connect(server.address, job="j", worker="w0") as worker:
            worker.ensure_job({"w": np.zeros(TARGET.size, np.float32)}, optimd.SGD(0.1), optimd.Sync(workers=1))
            some_steps(worker)
            worker.snapshot()

            def compute_or_kill(parameters: Parameters) -> tuple[Parameters, float, float]:
                nonlocal server
                if next(kills, False):
                    server.process.kill()
                    server.process.wait()
                    server = ServerProcess(*arguments, port=int(server.address.rpartition(":")[2]))
                return compute(parameters)

            found = worker.range_test(compute_or_kill, lr_start=1e-3, lr_end=1.0, steps=20)
            assert len(found.learning_rates) == 20
            assert next(kills, None) is None
            assert worker.status().global_step == 4
    finally:
        server.stop()


def test_another_test_in_its_place_is_said() -> None:
    with ThreadServer() as server, optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(TARGET.size, np.float32)}, optimd.SGD(0.1), optimd.Async())
        calls = 0

        def compute_and_meddle(parameters: Parameters) -> tuple[Parameters, float, float]:
            nonlocal calls
            calls += 1
            if calls == 5:
                with optimd.connect(server.address, job="j", observer=True) as other:
                    other.resume()
                    other._session.call(
                        "StartRangeTest", range_test.start_request("j", "me", "other", 1e-6, 1.0, 50, "linear")
                    )
            return compute(parameters)

        with pytest.raises(Refused, match="the job is RANGE_TEST"):
            worker.range_test(compute_and_meddle, steps=20)


class Training:
    """One worker that trains job "j" on a server until it is told to end."""

    def __init__(self, address: str, loss: float | None = 0.0) -> None:
        self.address, self.loss = address, loss
        self.over = threading.Event()
        self.reasons: list[str | None] = []
        self.failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._train)

    def __enter__(self) -> Training:
        self._thread.start()
        eventually(lambda: len(self.reasons) > 3 or bool(self.failed), "some steps", 30)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join(30)
        assert not self.failed, self.failed

    def _train(self) -> None:
        try:
            with optimd.connect(self.address, job="j", worker="w0") as worker:
                worker.ensure_job({"w": np.zeros(TARGET.size, np.float32)}, optimd.SGD(0.01), optimd.Sync(workers=1))
                parameters = worker.pull()
                while not self.over.is_set():
                    gradients, weight, loss = compute(parameters)
                    result = worker.step(gradients, weight=weight, loss=None if self.loss is None else loss)
                    parameters = result.parameters
                    self.reasons.append(result.reason)
        except BaseException as error:
            self.failed.append(error)


def test_from_the_shell_while_the_job_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Answered before the state is put back, and told so by the next push.
    config = ServerConfig(threads=2, shared_memory=False, one_thread_bytes_max=0)
    with ThreadServer(config) as server, Training(server.address) as training:
        asked = [
            "lr-range-test",
            "--job",
            "j",
            "--server",
            server.address,
            "--lr-start",
            "1e-4",
            "--lr-end",
            "100",
            "--steps",
            "120",
        ]
        assert main([*asked, "--plot", str(tmp_path / "curve.png")]) == 0
        said = capsys.readouterr().out
        assert said.startswith("j: ")
        assert "suggested: lr_base 0." in said
        assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
        assert main([*asked, "--linear", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["learning_rates"][1] - facts["learning_rates"][0] == pytest.approx((100 - 1e-4) / 119)
        assert main([*asked, "--plot", str(tmp_path / "no" / "curve.png")]) == 1
        assert "No such file" in capsys.readouterr().err
    assert set(training.reasons) == {None, "lineage_changed"}


def test_without_losses_there_is_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadServer() as server, Training(server.address, loss=None):
        assert main(["lr-range-test", "--job", "j", "--server", server.address]) == 1
        assert "the workers report no loss with their pushes" in capsys.readouterr().out


def test_what_the_shell_is_told_if_it_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadServer() as server, Training(server.address):
        at = ["--server", server.address]
        assert main(["lr-range-test", "--job", "nobody", *at]) == 1
        assert main(["lr-range-test", "--job", "j", *at, "--lr-end", "1e-9"]) == 1
        with optimd.connect(server.address, job="j", observer=True) as observer:
            observer.pause()
            assert main(["lr-range-test", "--job", "j", *at]) == 1
            observer.resume()
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["optimd lr-range-test"] * 3
    assert "lr_end: expected at least 1.01 times lr_start" in said[1]
    assert "the job is PAUSED" in said[2]


def test_a_test_that_nobody_trains_for_says_so_and_an_interrupt_ends_it() -> None:
    script = (
        "import sys; from optimd.commands import range_test; from optimdpb.program import main;"
        "range_test.WORDS_INTERVAL_S = 0.1; sys.exit(main(sys.argv[1:]))"
    )
    with ThreadServer() as server, optimd.connect(server.address, job="j", observer=True) as observer:
        observer.ensure_job({"w": np.zeros(3, np.float32)}, optimd.SGD(0.1), optimd.Sync(1))
        command = [sys.executable, "-c", script, "lr-range-test", "--job", "j", "--server", server.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr is not None
            assert run.stderr.readline() == "step 0 of 200, waiting for: round 0 opens with 1 workers: 0 live\n"
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=30)
        assert (run.returncode, out) == (130, "")
        said = [line for line in err.splitlines() if not line.startswith("step ")]
        assert said == ["the range test was ended, the job goes on as before it", "optimd lr-range-test: interrupted"]
        eventually(lambda: observer.status().state == "ready", "the end of the test")


def test_a_server_that_ends_puts_back_before_it_saves(tmp_path: Path) -> None:
    arguments = ["--data-dir", str(tmp_path)]
    server = ServerProcess(*arguments)
    try:
        with optimd.connect(server.address, job="j", worker="w0") as worker:
            worker.ensure_job({"w": np.zeros(TARGET.size, np.float32)}, optimd.Adam(0.01), optimd.Sync(workers=1))
            some_steps(worker)
            before, kept = worker.status(), worker.pull()["w"]
            worker._session.call(
                "StartRangeTest", range_test.start_request("j", "me", "a", 1e-6, 1e-3, 10_000, "exponential")
            )
            some_steps(worker)
            assert (worker.status().state, worker.status().global_step) == ("range_test", before.global_step + 4)
            with pytest.raises(Refused, match="no range test on its way"):
                worker.snapshot()
            assert server.terminate() == 0
            server = ServerProcess(*arguments, port=int(server.address.rpartition(":")[2]))
            after = worker.status()
            assert (after.global_step, after.state, after.learning_rate) == (before.global_step, "ready", 0.01)
            assert after.lineage != before.lineage
            assert [entry.change for entry in after.history[-2:]] == ["range test over: stopped", "restored"]
            gradients, weight, loss = compute({"w": kept})
            assert worker.step(gradients, weight=weight, loss=loss).reason == "lineage_changed"
            assert worker.pull()["w"].tobytes() == kept.tobytes()
            some_steps(worker)
    finally:
        server.stop()
