"""SIGTERM and restore with real processes: to the last bit for every rule, onto another number of shards."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import optimd
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from optimd_server.storage import read_snapshot, vector_names
from optimdpb.specs import Layout, Tensor

from tests.conformance.optimizers.rows import ROWS
from tests.support.program import job_text
from tests.support.servers import ServerProcess
from tests.support.trainer import Trainer, spec_of

Float32s = NDArray[np.float32]

# Borders of three and of two shards both fall inside "w".
SHAPES: dict[str, tuple[int, ...]] = {"w": (5, 4096), "b": (3,), "none": (0,), "scalar": ()}
LAYOUT = Layout(tuple(Tensor(name, shape) for name, shape in SHAPES.items()))
HALF = 6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(port: int, data: Path, *more: str) -> ServerProcess:
    return ServerProcess("--data-dir", str(data), *more, port=port)


def named(flat: Float32s) -> dict[str, Float32s]:
    """Views by tensor."""
    spans = zip(LAYOUT.tensors, LAYOUT.offsets, LAYOUT.offsets[1:], strict=False)
    return {tensor.name: flat[start:stop].reshape(tensor.shape) for tensor, start, stop in spans}


def flat_of(parameters: dict[str, Float32s]) -> bytes:
    return b"".join(parameters[tensor.name].tobytes() for tensor in LAYOUT.tensors)


def gradient(rule: str, step: int, worker: int) -> Float32s:
    rng = np.random.default_rng([step, worker, *rule.encode()])
    return (rng.standard_normal(LAYOUT.elements) * rng.uniform(0.01, 3)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_every_rule_goes_on_to_the_bit_from_three_shards_to_two(data: Path) -> None:
    """Six rounds, SIGTERM, restore, six rounds: parameters and slots of twelve rounds without a pause."""
    port, specs = free_port(), {row.name: row.draw(np.random.default_rng([1, *row.name.encode()])) for row in ROWS}
    start = np.random.default_rng(2).standard_normal(LAYOUT.elements).astype(np.float32)
    with ExitStack() as stack:
        server = stack.enter_context(serve(port, data, "--shards", "3"))
        workers = {}
        for name, optimizer in specs.items():
            worker = stack.enter_context(optimd.connect(server.address, job=f"job/{name}", worker="w0"))
            worker.ensure_job(named(start), optimizer, optimd.Sync(1))
            worker.pull()
            workers[name] = worker
        for name, worker in workers.items():
            for step in range(HALF):
                worker.step(named(gradient(name, step, 0)))
        assert server.terminate() == 0
        server = stack.enter_context(serve(port, data, "--shards", "2"))
        for name, optimizer in specs.items():
            trainer = Trainer(spec_of(optimizer, LAYOUT), start)
            for step in range(2 * HALF):
                trainer.update(gradient(name, step, 0))
            for step in range(HALF, 2 * HALF):
                result = workers[name].step(named(gradient(name, step, 0)))
                assert result.global_step == step + 1
            assert flat_of(dict(result.parameters)) == trainer.parameters.tobytes(), name
            snapshot = read_snapshot(Path(workers[name].snapshot()))
            assert len(snapshot.shards) == 2
            slots = [
                np.concatenate([image.vectors[vector] for image in snapshot.shards])
                for vector in vector_names(snapshot.spec)[1:]
            ]
            assert b"".join(slot.tobytes() for slot in slots) == trainer.slots.tobytes(), name


def test_a_push_that_waits_at_sigterm_counts_once(data: Path) -> None:
    """w0's push waits for w1 when the server goes; w0 only sees a long call."""
    port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(serve(port, data))
        workers = [stack.enter_context(optimd.connect(server.address, job="j", worker=f"w{i}")) for i in (0, 1)]
        for worker in workers:
            worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(2))
            worker.pull()
        waiting = threading.Thread(target=lambda: results.append(workers[0].step({"w": np.ones(4, np.float32)})))
        results: list[optimd.StepResult] = []
        waiting.start()
        deadline = time.monotonic() + 20
        while "waits for w1" not in workers[1].status().waiting_for:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.terminate() == 0
        server = stack.enter_context(serve(port, data))
        lineage = json.loads(newest_manifest(data).read_text())["state"]["lineage"]
        result = workers[1].step({"w": np.full(4, 3.0, np.float32)})
        waiting.join(30)
        assert results[0].status == result.status == "applied"
        assert result.parameters["w"].tolist() == [-2.0] * 4
        status = workers[1].status()
        assert (status.global_step, status.lineage) == (1, lineage)
        assert status.applied == 2


def newest_manifest(data: Path) -> Path:
    return max(data.glob("*/*-step-*/manifest.json"))


def test_kill_9_forks_the_lineage_and_nothing_of_before_counts(data: Path) -> None:
    """Steps behind the snapshot are gone: the worker is told, pulls what is there, and trains on."""
    port = free_port()
    one = {"w": np.ones(4, np.float32)}
    with ExitStack() as stack:
        server = stack.enter_context(serve(port, data))
        worker = stack.enter_context(optimd.connect(server.address, job="j", worker="w0"))
        worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        worker.step(one)
        worker.snapshot()
        assert worker.step(one).global_step == 2
        lineage = worker.status().lineage
        server.process.kill()
        server.process.wait()
        server = stack.enter_context(serve(port, data))
        result = worker.step(one)
        assert (result.status, result.reason) == ("discarded", "lineage_changed")
        assert result.parameters["w"].tolist() == [-1.0] * 4
        assert worker.status().lineage != lineage
        assert worker.step(one).parameters["w"].tolist() == [-2.0] * 4
        assert server.terminate() == 0
        stack.enter_context(serve(port, data))
        assert worker.step(one).parameters["w"].tolist() == [-3.0] * 4, "an orderly end loses nothing again"


def test_a_snapshot_under_load_is_of_one_moment(data: Path) -> None:
    """Four workers train a vector large enough for threads; each snapshot has the parameters of its step."""
    elements = 300_000
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess("--data-dir", str(data), "--shards", "2"))
        stop = threading.Event()

        def train(index: int) -> None:
            with optimd.connect(server.address, job="j", worker=f"w{index}") as worker:
                worker.pull()
                while not stop.is_set():
                    worker.step({"w": np.ones(elements, np.float32)})

        observer = stack.enter_context(optimd.connect(server.address, job="j", observer=True))
        observer.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGDM(1.0), optimd.Sync(4, workers_min=1))
        threads = [threading.Thread(target=train, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        stack.callback(stop.set)
        steps = set()
        while len(steps) < 8:
            if observer.status().global_step == 0:
                time.sleep(0.05)
                continue
            snapshot = read_snapshot(Path(observer.snapshot()))
            steps.add(snapshot.state["step"])
            w = m = 0.0
            for _ in range(snapshot.state["step"]):
                m = float(np.float32(np.float32(0.9) * np.float32(m)) + np.float32(1.0))
                w = float(np.float32(w) - np.float32(m))
            for image in snapshot.shards:
                assert np.ptp(image.vectors["param"]) == np.ptp(image.vectors["sgdm.momentum"]) == 0.0
                assert image.vectors["param"][0] == pytest.approx(w, rel=1e-5)
        stop.set()
        for thread in threads:
            thread.join(30)


def test_it_opens_in_plain_safetensors(data: Path) -> None:
    server = ServerProcess("--data-dir", str(data))
    with server, optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"layer/w": np.zeros((2, 3), np.float32)}, optimd.Adam(0.1), optimd.Sync(1))
        worker.pull()
        parameters = worker.step({"layer/w": np.ones((2, 3), np.float32)}).parameters
        path = Path(worker.snapshot())
    tensors = safetensors.numpy.load_file(path / "shard-1-of-1.safetensors")
    assert tensors["param/layer/w"].tobytes() == parameters["layer/w"].tobytes()
    assert tensors["adam.exp_avg/layer/w"] == pytest.approx(0.1)


def test_a_damaged_snapshot_is_that_jobs_fault_alone(data: Path) -> None:
    """Its job is FAILED and says why, its files stay as they are, nobody can take its place; the other job goes on."""
    start = {"w": np.zeros(4, np.float32)}
    with ServerProcess("--data-dir", str(data)) as server:
        for job in ("bad", "good"):
            with optimd.connect(server.address, job=job, worker="w0") as worker:
                worker.ensure_job(start, optimd.Adam(0.1), optimd.Sync(1))
                lineage = worker.status().lineage if job == "bad" else ""
    (path,) = data.glob("bad-*/*/shard-1-of-1.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with ServerProcess("--data-dir", str(data)) as server:
        with optimd.connect(server.address, job="bad", worker="w0") as worker:
            status = worker.status()
            assert status.state == "failed"
            assert f"snapshot {path}: expected crc32c" in status.failure
            assert status.failure in job_text("bad", status)
            for call in (
                lambda: worker.ensure_job(start, optimd.SGD(0.1), optimd.Sync(1)),
                worker.pull,
                worker.snapshot,
            ):
                with pytest.raises(
                    optimd.Refused, match="could not be restored; what is saved of it is untouched"
                ) as error:
                    call()
                assert error.value.reason == "JOB_FAILED"
        with optimd.connect(server.address, job="good", worker="w0") as worker:
            worker.ensure_job(start, optimd.Adam(0.1), optimd.Sync(1))
            worker.pull()
            assert worker.step({"w": np.ones(4, np.float32)}).global_step == 1
        assert server.terminate() == 0
    assert [entry.name for entry in path.parent.parent.iterdir() if entry.is_dir()] == [path.parent.name]
    path.write_bytes(content)
    server = ServerProcess("--data-dir", str(data))
    with server, optimd.connect(server.address, job="bad", observer=True) as worker:
        assert worker.status().state == "ready"
        assert worker.status().lineage != lineage, "it might have been an older snapshot"


def test_a_second_server_on_the_directory_is_refused(data: Path) -> None:
    with ServerProcess("--data-dir", str(data)):
        code, _, error = run_to_the_end("--data-dir", str(data))
        assert (code, "in use by another server" in error) == (1, True)


def test_a_full_disk_stops_no_training_and_costs_no_snapshot(data: Path) -> None:
    """The call says what is wrong, SIGTERM ends with status 1, and the snapshot of before is still good."""
    start = {"w": np.zeros(10_000, np.float32)}
    with ServerProcess("--data-dir", str(data)) as first, optimd.connect(first.address, job="j", worker="w0") as worker:
        worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        worker.step({"w": np.ones(10_000, np.float32)})
    good = newest_manifest(data)
    server = ServerProcess("--data-dir", str(data))
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        with pytest.raises(optimd.Refused, match="could not be saved") as refused:
            worker.snapshot()
        assert refused.value.reason == "STORAGE_FAILED"
        assert worker.step({"w": np.ones(10_000, np.float32)}).global_step == 2
    assert server.terminate() == 1
    assert server.process.stderr is not None
    assert "could not be saved" in server.process.stderr.read().decode().splitlines()[-1]
    assert list(data.glob("*/*step*")) == [good.parent]
    assert read_snapshot(good.parent).state["step"] == 1


@pytest.mark.parametrize("arguments", [("--shards", "0"), ("--shards", "65")])
def test_shards_out_of_range(arguments: tuple[str, str]) -> None:
    code, _, error = run_to_the_end(*arguments)
    assert (code, "--shards: expected a whole number from 1 to 64" in error) == (2, True)


def run_to_the_end(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a server that is expected not to start."""
    command = [sys.executable, "-m", "optimd_server", "serve", "--listen", "127.0.0.1:0", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, result.stdout, result.stderr


def test_sigint_saves_too(data: Path) -> None:
    server = ServerProcess("--data-dir", str(data))
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(0.1), optimd.Sync(1))
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert newest_manifest(data).exists()
