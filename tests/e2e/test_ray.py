"""The server inside a Ray cluster: handles, tasks, actors, and no server left behind."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd import words

from tests.e2e.scene import eventually
from tests.support.blocks import blocks, example

ray = pytest.importorskip("ray", reason="Ray is not installed")
import optimd.ray  # noqa: E402

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("cluster")]

START = {"w": np.zeros(4, np.float32)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def server(cluster: None) -> Iterator[optimd.ray.ServerHandle]:
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


def daemon_of(handle: Any) -> int:
    """Its process."""
    (shell,) = children_of(ray.get(handle.actor.__ray_call__.remote(lambda self: os.getpid())))
    (daemon,) = children_of(shell)
    return daemon


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
    for same in (pickle.loads(pickle.dumps(server)), copy.deepcopy(server), ray.get(ray.put(server))):
        assert same.address == server.address
        assert "serving" not in same.log()
        assert same.connect(job="j", observer=True).status


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
    daemon = daemon_of(handle)
    ray.kill(handle.actor)
    eventually(lambda: not is_running(daemon), "the server to end", timeout_s=30)
    with pytest.raises(optimd.ServerUnavailable, match="has ended with its actor"):
        handle.connect(job="j", worker="w0")
    handle.stop()


def test_a_killed_server_ends_its_actor_and_everybody_is_told() -> None:
    handle = optimd.ray.start(threads=1)

    def push_on(handle: Any) -> str:
        with handle.connect(job="k", worker="w0") as worker:
            worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(1))
            worker.pull()
            try:
                while True:
                    worker.step({"w": np.ones(4, np.float32)})
            except (optimd.OutcomeUnknown, optimd.ServerUnavailable) as error:
                told = str(error)
        return told

    running = ray.remote(num_cpus=1, max_retries=0)(push_on).remote(handle)
    observer = handle.connect(job="k", observer=True)
    eventually(lambda: trains(observer), "the worker to push", timeout_s=60)
    os.kill(daemon_of(handle), signal.SIGKILL)
    began_s = time.monotonic()
    expected = r"was killed by SIGKILL \(exit status 137\); the end of its log:[\s\S]*job k created by w0"
    assert re.search(expected, ray.get(running, timeout=30))
    for call in (observer.pull, lambda: handle.connect(job="k", worker="w1")):
        with pytest.raises(optimd.ServerUnavailable, match=expected):
            call()
    handle.stop()
    handle.stop()
    assert time.monotonic() - began_s < 20
    assert "job k created by w0" in handle.log()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(handle.actor.log.remote(), timeout=30)


def trains(observer: optimd.Worker) -> bool:
    try:
        return observer.status().global_step > 3
    except optimd.Refused:
        return False


@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_an_insecure_server_is_reached_at_its_nodes_address(host: str | None, saved: Path) -> None:
    """And takes the options of `optimd serve`: the second goes on where the first was stopped."""
    handle = optimd.ray.start(host=host, insecure=True, threads=1, data_dir=saved, workers_max=1)
    assert handle.address.rpartition(":")[0] == ray.util.get_node_ip_address()
    with handle.connect(job="j", worker="w0") as worker, handle.connect(job="j", worker="w1") as second:
        worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(1))
        assert worker.pull()["w"][0] == (-1 if host else 0)
        worker.step({"w": np.ones(4, np.float32)})
        second.pull()
        with pytest.raises(optimd.Refused, match="workers"):
            second.step({"w": np.ones(4, np.float32)})
    handle.stop()


def test_a_server_that_could_not_save_says_so_when_it_is_stopped(tmp_path: Path) -> None:
    handle = optimd.ray.start(threads=1, data_dir=tmp_path / "saved")
    with handle.connect(job="j", worker="w0") as worker:
        worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(1))
        (tmp_path / "saved").rename(tmp_path / "gone")
        (tmp_path / "saved").touch()
    with pytest.raises(optimd.OptimdError, match="ended with exit status 1: "):
        handle.stop()


def test_the_servers_log_is_among_rays(server: optimd.ray.ServerHandle) -> None:
    with server.connect(job="nowhere", observer=True) as observer, pytest.raises(optimd.Refused):
        observer.pull()
    refused = "UNKNOWN_JOB: expected a job of this server, got 'nowhere'"
    eventually(lambda: refused in server.log(), "the refusal in the log")
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    eventually(lambda: any(refused in path.read_text() for path in folder.glob("worker-*.err")), "it among Ray's")


def test_an_address_of_another_node_is_a_clear_error() -> None:
    with pytest.raises(
        optimd.ServerUnavailable, match=r"192\.0\.2\.77 must be an address of the server's node, [\d.]+: "
    ):
        optimd.ray.start(host="192.0.2.77", insecure=True)


def test_loopback_of_another_node_is_found_out_before_anything_is_sent(server: optimd.ray.ServerHandle) -> None:
    away = dataclasses.replace(server, place=dataclasses.replace(server.place, ip="192.0.2.77"))
    with pytest.raises(optimd.ServerUnavailable, match=r"of node 192\.0\.2\.77 alone, .*insecure=True"):
        away.connect(job="j", worker="w0")


def test_a_cluster_without_room_is_a_clear_error() -> None:
    with pytest.raises(optimd.ServerUnavailable, match="no room for the server's actor"):
        optimd.ray.start(num_cpus=100, startup_timeout_s=0)


def test_a_server_that_cannot_start_is_a_clear_error() -> None:
    with pytest.raises(optimd.ServerUnavailable, match=r"did not come up \(exit status 2\).*is not loopback"):
        optimd.ray.start(host="0.0.0.0")


def test_waits_for_the_actor_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(words, "SILENCE_S", 0.2)
    with pytest.raises(optimd.ServerUnavailable):
        optimd.ray.start(num_cpus=100, startup_timeout_s=1)
    handle = optimd.ray.start(threads=1)
    os.kill(daemon_of(handle), signal.SIGSTOP)
    with pytest.raises(optimd.OptimdError, match="was killed by SIGKILL"):
        handle.stop(timeout_s=1)
    said = [record.getMessage() for record in caplog.records if record.name == "optimd.ray"]
    for sentence in (
        "Ray has found no node for the server's actor yet (num_cpus=100), see `ray status`",
        f"the server starts on node {handle.place.ip}: ",
        f"the server at {handle.address} saves and ends; it is killed after 1 s",
    ):
        assert sum(sentence in line for line in said) == 1, said


def test_the_page_on_ray_and_the_docstring_run(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (page,) = (block.text for block in blocks() if block.page == "docs/ray.md")
    exec(page, {})
    assert "job line created by w" in capsys.readouterr().out
    assert optimd.ray.__doc__ is not None
    names: dict[str, Any] = {"optimd": optimd, "ray": ray}
    exec(example(optimd.ray.__doc__).replace("/data/optimd", str(saved / "docstring")), names)
    ray.get(names["train"].remote(names["server"], "w0"), timeout=60)
    names["server"].stop()
    assert (saved / "docstring").exists()
