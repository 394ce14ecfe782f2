"""Errors of optimd come out of Ray tasks as themselves, and a worker that is shipped says what to do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optimd
import pytest

from tests.support.errors import LOCAL, attributes, raise_error
from tests.support.servers import ThreadServer

ray = pytest.importorskip("ray", reason="Ray is not installed")

pytestmark = pytest.mark.usefixtures("cluster")

START = {"w": np.zeros(4, np.float32)}


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer() as server:
        yield server


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("name", LOCAL)
def test_an_error_comes_out_of_a_task(name: str, wire: bool) -> None:
    with pytest.raises(type(LOCAL[name])) as caught:
        ray.get(ray.remote(raise_error).remote(name, wire=wire), timeout=60)
    assert str(LOCAL[name]) in str(caught.value)
    expected = attributes(LOCAL[name])
    assert {key: getattr(caught.value, key) for key in expected} == expected


def test_an_error_comes_out_of_a_task_within_a_task() -> None:
    def outer() -> Any:
        return ray.get(ray.remote(raise_error).remote("JobMismatch", wire=True))

    with pytest.raises(optimd.JobMismatch) as caught:
        ray.get(ray.remote(outer).remote(), timeout=60)
    assert caught.value.metadata["field"] == "optimizer.lr.lr"


def test_what_the_server_refuses_in_a_task_is_caught_by_its_class(server: ThreadServer) -> None:
    def ensure(address: str, lr: float) -> None:
        with optimd.connect(address, job="j", worker="w0") as worker:
            worker.ensure_job(START, optimd.SGD(lr), optimd.Sync(1))

    ray.get(ray.remote(ensure).remote(server.address, 0.1), timeout=60)
    with pytest.raises(optimd.JobMismatch) as caught:
        ray.get(ray.remote(ensure).remote(server.address, 0.2), timeout=60)
    assert caught.value.reason == "JOB_MISMATCH"
    assert caught.value.field.startswith("optimizer.lr")
    with pytest.raises(optimd.InvalidSpec) as invalid:
        ray.get(ray.remote(ensure).remote(server.address, -1.0), timeout=60)
    assert (invalid.value.field, invalid.value.problem) == (
        "lr",
        "expected a finite number >= 0 that fits float32, got -1.0",
    )


@pytest.fixture(params=["new", "used"])
def worker(request: pytest.FixtureRequest, server: ThreadServer) -> Iterator[optimd.Worker]:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        if request.param == "used":
            worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
        yield worker


def use(worker: optimd.Worker) -> Any:
    return worker.pull()


def captured(worker: optimd.Worker) -> Any:
    def task() -> Any:
        return worker.pull()

    return ray.remote(task).remote()


SHIPPED: dict[str, Callable[[optimd.Worker], Any]] = {
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "put": ray.put,
    "argument": lambda worker: ray.remote(use).remote(worker),
    "captured": captured,
}


@pytest.mark.parametrize("way", SHIPPED)
def test_a_worker_that_is_shipped_says_to_connect_inside(way: str, worker: optimd.Worker) -> None:
    with pytest.raises(TypeError) as caught:
        SHIPPED[way](worker)
    texts = [str(caught.value), str(caught.value.__cause__)]
    assert any("cannot be pickled or copied" in text and "inside the task" in text for text in texts), texts
