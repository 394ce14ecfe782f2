"""How people start and stop what trains inside Ray; each function asserts what must be true behind it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
import ray

from tests.e2e.scene import eventually

START = {"w": np.zeros(3, np.float32)}
ONES = {"w": np.ones(3, np.float32)}
DRIVER = """
import os, pickle, sys
import numpy as np, optimd, optimd.ray, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""


def train(worker: optimd.Worker, notes: Path, steps: int = 3) -> None:
    """Note each step that was acknowledged."""
    worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(1))
    worker.pull()
    for _ in range(steps):
        assert worker.step(ONES).status == "applied"
        with notes.open("ab") as file:
            file.write(b".")


def check(server: Any, job: str, notes: Path, workers: list[str], least: int = 3) -> None:
    """Each acknowledged step is in the parameters once, and these workers are members."""
    with server.connect(job=job, observer=True) as observer:
        acknowledged = len(notes.read_bytes())
        assert acknowledged >= least
        assert observer.pull()["w"].tolist() == [-acknowledged] * 3
        assert [each.worker for each in observer.status().workers] == workers


class Trainer:
    """A worker in an actor, as people write it."""

    def __init__(self, server: Any, job: str, notes: Path) -> None:
        self.worker = server.connect(job=job, worker="w0")
        self.notes = notes
        self.worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(1))
        self.worker.pull()

    def train(self) -> int:
        """Three steps."""
        train(self.worker, self.notes)
        return os.getpid()

    def end(self) -> None:
        """Die."""
        os._exit(1)


def a_task_that_is_tried_again(server: Any, job: str, notes: Path) -> None:
    def work() -> None:
        with server.connect(job=job, worker="w0") as worker:
            train(worker, notes)
            if notes.stat().st_size < 6:
                os._exit(1)

    ray.get(ray.remote(max_retries=1)(work).remote(), timeout=60)
    check(server, job, notes, [], 6)


def a_task_that_raises(server: Any, job: str, notes: Path) -> None:
    def work() -> None:
        with server.connect(job=job, worker="w0") as worker:
            train(worker, notes)
            worker.step({"v": np.ones(3, np.float32)})

    with pytest.raises(optimd.InvalidGradient, match="'v'"):
        ray.get(ray.remote(max_retries=0)(work).remote(), timeout=60)
    check(server, job, notes, [])


def a_task_that_is_cancelled(server: Any, job: str, notes: Path) -> None:
    def work() -> None:
        with server.connect(job=job, worker="w0") as worker:
            while True:
                train(worker, notes)

    running = ray.remote(max_retries=0)(work).remote()
    eventually(lambda: notes.exists() and notes.stat().st_size > 3, "it to train", timeout_s=30)
    ray.cancel(running)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(running, timeout=30)
    eventually(lambda: not members(server, job), "it to leave", timeout_s=10)
    with server.connect(job=job, observer=True) as observer:
        assert 0 <= -observer.pull()["w"][0] - notes.stat().st_size <= 1


def members(server: Any, job: str) -> list[str]:
    with server.connect(job=job, observer=True) as observer:
        return [each.worker for each in observer.status().workers]


def an_actor_that_ray_starts_again(server: Any, job: str, notes: Path) -> None:
    options: dict[str, Any] = {"max_restarts": 1, "max_task_retries": 1}
    actor = ray.remote(**options)(Trainer).remote(server, job, notes)
    first = ray.get(actor.train.remote(), timeout=60)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(actor.end.options(max_task_retries=0).remote(), timeout=60)
    assert ray.get(actor.train.remote(), timeout=60) != first
    check(server, job, notes, ["w0"], 6)


def an_actor_that_is_killed(server: Any, job: str, notes: Path) -> None:
    actor = ray.remote(Trainer).remote(server, job, notes)
    ray.get(actor.train.remote(), timeout=60)
    ray.kill(actor)
    check(server, job, notes, ["w0"])
    eventually(lambda: not members(server, job), "its lease to end", timeout_s=10)


def an_actor_that_nobody_holds(server: Any, job: str, notes: Path) -> None:
    actor = ray.remote(Trainer).remote(server, job, notes)
    ray.get(actor.train.remote(), timeout=60)
    del actor
    eventually(lambda: not members(server, job), "its lease to end", timeout_s=20)
    check(server, job, notes, [])


def run_driver(text: str, *arguments: str, status: int = 0) -> None:
    """Another driver of this cluster."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER + text, address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (status, "done\n" if not status else ""), done


def another_driver_trains(server: Any, job: str, notes: Path) -> None:
    run_driver(
        """
from pathlib import Path
from tests.e2e.rows_ray_starts import train
with pickle.loads(bytes.fromhex(sys.argv[2])).connect(job=sys.argv[3], worker="w0") as worker:
    train(worker, Path(sys.argv[4]))
print("done", flush=True)
""",
        pickle.dumps(server).hex(),
        job,
        str(notes),
    )
    check(server, job, notes, [])


def another_driver_stops_it(server: Any, job: str, notes: Path) -> None:
    mine = optimd.ray.start(threads=1, data_dir=notes.with_suffix(".saved"))
    with mine.connect(job=job, worker="w0") as worker:
        train(worker, notes)
        run_driver(
            "pickle.loads(bytes.fromhex(sys.argv[2])).stop(); print('done', flush=True)", pickle.dumps(mine).hex()
        )
        with pytest.raises(optimd.ServerUnavailable, match="ended with exit status 0"):
            mine.connect(job=job, worker="w1")
        began_s = time.monotonic()
    mine.stop()
    assert time.monotonic() - began_s < 10
    again = optimd.ray.start(threads=1, data_dir=notes.with_suffix(".saved"))
    check(again, job, notes, ["w0"])  # it had not left
    again.stop()


def a_driver_that_just_ends(server: Any, job: str, notes: Path) -> None:
    saved = notes.with_suffix(".saved")
    run_driver(
        """
from pathlib import Path
from tests.e2e.rows_ray_starts import train
server = optimd.ray.start(threads=1, data_dir=sys.argv[2])
worker = server.connect(job=sys.argv[3], worker="w0")
train(worker, Path(sys.argv[4]))
print("done", flush=True)
""",
        str(saved),
        job,
        str(notes),
    )
    eventually(lambda: saved.exists() and not (saved / "running").exists(), "the server to save and end", 30)
    again = optimd.ray.start(threads=1, data_dir=saved)
    with again.connect(job=job, observer=True) as observer:
        assert observer.pull()["w"].tolist() == [-3.0] * 3
    again.stop()


RAY_ROWS: dict[str, Callable[[Any, str, Path], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        a_task_that_is_tried_again,
        a_task_that_raises,
        a_task_that_is_cancelled,
        an_actor_that_ray_starts_again,
        an_actor_that_is_killed,
        an_actor_that_nobody_holds,
        another_driver_trains,
        another_driver_stops_it,
        a_driver_that_just_ends,
    )
}
