"""A fake server, and workers that have created and pulled its job."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import optimd
import pytest

from tests.unit.client.fake_server import FakeServer

START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
GRADIENT = {"w": np.full((2, 3), 0.5, np.float32), "b": np.ones(2, np.float32)}
FLAT_GRADIENT = [0.5] * 6 + [1.0] * 2

MakeWorker = Callable[..., optimd.Worker]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def make_worker(server: FakeServer) -> Iterator[MakeWorker]:
    """A worker that has the job and its parameters; the calls that took are forgotten."""
    workers: list[optimd.Worker] = []

    def make(timeout_s: float = 5.0, start: dict[str, np.ndarray] | None = None) -> optimd.Worker:
        worker = optimd.connect(server.address, job="j", worker="w0", timeout_s=timeout_s)
        workers.append(worker)
        worker.ensure_job(start or START, optimd.SGD(0.1), optimd.Sync(1))
        worker.pull()
        server.calls.clear()
        return worker

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def worker(make_worker: MakeWorker) -> optimd.Worker:
    return make_worker()
