"""The server inside a Ray cluster: handles, tasks, actors, and no server left behind."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest

from tests.e2e.scene import eventually

ray = pytest.importorskip("ray", reason="Ray is not installed")
import optimd.ray  # noqa: E402

pytestmark = pytest.mark.alone

START = {"w": np.zeros(4, np.float32)}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def server() -> Iterator[optimd.ray.ServerHandle]:
    handle = optimd.ray.start(threads=1, num_cpus=1)
    yield handle
    handle.stop()


def train(handle: Any, name: str, workers: int, steps: int) -> list[float]:
    """Push ones until `steps`; the parameter after each."""
    seen = []
    with handle.connect(job="j", worker=name) as worker:
        worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(workers), steps_max=steps)
        worker.pull()
        for _ in range(steps):
            result = worker.step({"w": np.ones(4, np.float32)})
            assert result.status == "applied"
            seen.append(float(result.parameters["w"][0]))
    return seen


def children_of(pid: int) -> set[int]:
    """Processes whose command line runs the server and whose parent is `pid`."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                command = Path(f"/proc/{entry}/cmdline").read_text()
            except (OSError, IndexError):
                continue
            if parent == pid and "optimd_server" in command:
                found.add(int(entry))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_tasks_and_actors_train_through_a_handle(server: optimd.ray.ServerHandle) -> None:
    task = ray.remote(num_cpus=1)(train)

    class Trainer:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def train(self, name: str) -> list[float]:
            return train(self.handle, name, 2, 5)

    actor = ray.remote(num_cpus=1)(Trainer).remote(server)
    results = ray.get([task.remote(server, "w0", 2, 5), actor.train.remote("w1")], timeout=60)
    assert results == [[-1.0, -2.0, -3.0, -4.0, -5.0]] * 2
    with server.connect(job="j", observer=True) as observer:
        assert observer.pull()["w"].tolist() == [-5.0] * 4


def test_a_handle_survives_pickling(server: optimd.ray.ServerHandle) -> None:
    assert pickle.loads(pickle.dumps(server.address)) == server.address
    assert ray.get(ray.put(server)).address == server.address


def test_stop_ends_the_server_and_may_be_repeated() -> None:
    handle = optimd.ray.start(threads=1)
    handle.stop()
    handle.stop()
    with (
        optimd.connect(handle.address, job="j", observer=True, timeout_s=0.3) as observer,
        pytest.raises(optimd.ServerUnavailable),
    ):
        observer.status()


def test_a_killed_actor_leaves_no_server_behind() -> None:
    handle = optimd.ray.start(threads=1)

    def process_id(self: Any) -> int:
        return os.getpid()

    pid = ray.get(handle.actor.__ray_call__.remote(process_id))
    (child,) = children_of(pid)
    ray.kill(handle.actor)
    eventually(lambda: not is_running(child), "the server to end", timeout_s=30)


def test_a_cluster_without_room_is_a_clear_error() -> None:
    with pytest.raises(optimd.ServerUnavailable, match="no room for the server's actor"):
        optimd.ray.start(num_cpus=100, startup_timeout_s=-58)


def test_a_server_that_cannot_start_is_a_clear_error() -> None:
    with pytest.raises(optimd.ServerUnavailable, match=r"did not come up \(exit status 2\).*is not loopback"):
        optimd.ray.start(host="0.0.0.0")
