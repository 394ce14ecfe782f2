"""The same bits by every way that gradients and parameters can travel, and parameters of one version."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import optimd
import pytest
from optimdpb.specs import Adam, JobSpec, Sync

from tests.e2e.shared import LAYOUT, START, config, everybody, gradient, in_place, joined, named, shares
from tests.support.servers import ThreadServer
from tests.support.trainer import Part, Trainer

Run = Callable[[optimd.Worker, int, int], Any]


def plain(worker: optimd.Worker, step: int, index: int) -> Any:
    return worker.step(named(gradient(step, index)), weight=1.0 + index)


def push_then_pull(worker: optimd.Worker, step: int, index: int) -> Any:
    result = worker.push(named(gradient(step, index)), weight=1.0 + index)
    worker.pull(copy=bool(step % 2))
    return result


PATHS: list[tuple[str, dict[str, Any], Run, str]] = [
    ("shared memory, in place", {}, in_place, "shared"),
    ("shared memory, plain arrays", {}, plain, "shared"),
    ("shared memory, push and pull", {}, push_then_pull, "shared"),
    ("gRPC streams", {"shared_memory": False, "step_bytes_max": 1000}, plain, "grpc"),
    ("gRPC streams, in place", {"shared_memory": False, "step_bytes_max": 1000}, in_place, "grpc"),
    ("unary Step", {"shared_memory": False}, plain, "grpc"),
    ("unary Step over the unix socket", {"inline_bytes_max": 1 << 20}, plain, "unix socket"),
]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("settings", "run", "path"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS])
def test_the_same_bits_by_every_way(settings: dict[str, Any], run: Run, path: str, shards: int) -> None:
    """P1 across transports: parameters and slots of two workers' rounds, against one process."""
    steps, workers = 8, 2
    expected = Trainer(JobSpec(LAYOUT, Adam(0.01), Sync(2)), START)
    for step in range(steps):
        expected.round([Part(f"w{i}", 1.0 + i, gradient(step, i)) for i in range(workers)])

    def train(index: int) -> None:
        with joined(server.address, f"w{index}", optimd.Sync(2)) as worker:
            assert shares(worker) == (path == "shared")
            assert worker._session.transport.is_local == (path != "grpc")
            for step in range(steps):
                result = run(worker, step, index)
                assert (result.status, result.global_step) == ("applied", step + 1)

    with ThreadServer(config(shards=shards, one_thread_bytes_max=0, lease_s=30.0, **settings)) as server:
        everybody(workers, train)
        parameters, slots = server.vectors("j")
    assert parameters.tobytes() == expected.parameters.tobytes()
    assert slots.tobytes() == expected.slots.tobytes()


@pytest.mark.parametrize("bad", [False, True], ids=["good", "one is not finite"])
def test_gradients_that_come_together_are_read_once(bad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan makes the reduction, where it can: the bits are those of one process all the same."""
    monkeypatch.setattr("optimd_server.runtime.scans.TURNS", 5_000)
    workers, steps = 3, 4
    expected = Trainer(JobSpec(LAYOUT, Adam(0.01), Sync(3)), START)
    barrier = threading.Barrier(workers)

    def spoilt(step: int, index: int) -> bool:
        return bad and step == 1 and index == 1

    def train(index: int) -> None:
        with joined(server.address, f"w{index}", optimd.Sync(3)) as worker:
            for step in range(steps):
                buffers = worker.gradient_buffers()
                for name, values in named(gradient(step, index)).items():
                    buffers[name][...] = values
                if spoilt(step, index):
                    buffers["b"][3] = np.nan
                barrier.wait(30)
                result = worker.step(buffers, weight=1.0 + index, copy=False)
                assert result.status == ("rejected" if spoilt(step, index) else "applied")
            barrier.wait(30)

    with ThreadServer(config(shards=2, one_thread_bytes_max=0, lease_s=30.0)) as server:
        everybody(workers, train)
        together = server.host("j").scans.together
        parameters, slots = server.vectors("j")
    for step in range(steps):
        parts = [Part(f"w{i}", 1.0 + i, gradient(step, i)) for i in range(workers) if not spoilt(step, i)]
        expected.round(parts)
    assert together >= 1
    assert parameters.tobytes() == expected.parameters.tobytes()
    assert slots.tobytes() == expected.slots.tobytes()


@pytest.mark.parametrize("shared", [True, False], ids=["copy", "stream"])
@pytest.mark.parametrize("elements", [100_000, 900_000])
def test_what_is_read_is_one_version(shared: bool, elements: int) -> None:
    """Everybody adds the same to every element, in many short updates: no two elements ever differ."""
    with ThreadServer(config(shared_memory=shared, lease_s=30.0)) as server:

        def train(index: int) -> None:
            dtypes = {"pull_dtype": "bfloat16"} if index == 1 else {}
            with optimd.connect(server.address, job="j", worker=f"w{index}", **dtypes) as worker:
                worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(1.0), optimd.Async())
                worker.pull()
                for _ in range(20):
                    parameters = worker.step({"w": np.ones(elements, np.float32)}).parameters["w"]
                    assert parameters.min() == parameters.max()

        everybody(4, train)
