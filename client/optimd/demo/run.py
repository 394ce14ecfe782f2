"""Starts cluster, server and workers, watches them, and collects what came of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import ray
from optimdpb.errors import OptimdError
from optimdpb.specs import Optimizer

import optimd.ray
from optimd.demo import data, mlp
from optimd.demo.worker import Point, work_on
from optimd.results import JobStatus
from optimd.worker import Worker

WATCH_INTERVAL_S = 0.1
# BLAS threads would fight over the cores that the other workers need.
_ENVIRONMENT = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}


@dataclass(frozen=True)
class Outcome:
    """What the run came to. `loss` and `learning_rate` are by global step; `accuracies` are (step, accuracy) pairs."""

    accuracy: float
    global_step: int
    seconds: float
    steps: list[int]
    loss: list[float]
    learning_rate: list[float]
    accuracies: list[tuple[int, float]]

    @property
    def steps_per_s(self) -> float:
        """Updates per second from the first gradient on."""
        return self.global_step / self.seconds


@contextlib.contextmanager
def server_for(workers: int) -> Iterator[optimd.ray.ServerHandle]:
    """A local Ray cluster with room for the workers, and a server on it; both end with the context."""
    ray.init(
        "local",  # a cluster that is there already would refuse num_cpus
        num_cpus=workers + 1,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env=_ENVIRONMENT,
    )
    try:
        server = optimd.ray.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        ray.shutdown()


def train(
    server: optimd.ray.ServerHandle,
    job: str,
    workers: int,
    optimizer: Optimizer,
    steps: int,
    show: Callable[[JobStatus], None],
) -> Outcome:
    """Train one job to its end; every job starts alike. Calls show() with the job's status now and then."""

    @ray.remote(num_cpus=1, max_retries=0)
    def work(index: int) -> tuple[float, float, list[Point]]:
        started_s = time.time()
        with server.connect(job=job, worker=f"w{index}") as worker:
            history = work_on(worker, index, workers, optimizer, steps)
        return started_s, time.time(), history

    pending = [work.remote(index) for index in range(workers)]
    digits = data.load()
    accuracies: list[tuple[int, float]] = []
    with server.connect(job=job, observer=True) as observer:
        results = list(pending)
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=WATCH_INTERVAL_S)
            ray.get(done)  # a worker that failed ends the run here
            _watch(observer, digits, accuracies, show)
        histories = ray.get(results)
        parameters, status = observer.pull(), observer.status()
    accuracy = mlp.accuracy(parameters, digits.test_x, digits.test_labels)
    accuracies.append((status.global_step, accuracy))
    show(status)
    seconds = max(end for _, end, _ in histories) - max(start for start, _, _ in histories)
    points = [history for _, _, history in histories]
    return Outcome(accuracy, status.global_step, seconds, *_by_step(points), accuracies)


def _watch(
    observer: Worker, digits: data.Digits, accuracies: list[tuple[int, float]], show: Callable[[JobStatus], None]
) -> None:
    """One look at the job; quiet while it is not there yet."""
    try:
        status = observer.status()
        if status.state == "initializing":
            return
        parameters = observer.pull()
    except OptimdError:
        return
    accuracies.append((status.global_step, mlp.accuracy(parameters, digits.test_x, digits.test_labels)))
    show(status)


def _by_step(histories: list[list[Point]]) -> tuple[list[int], list[float], list[float]]:
    """Steps, mean loss over the workers, learning rate."""
    losses: dict[int, list[float]] = {}
    rates: dict[int, float] = {}
    for point in (point for history in histories for point in history):
        losses.setdefault(point.global_step, []).append(point.loss)
        rates[point.global_step] = point.learning_rate
    steps = sorted(losses)
    return steps, [float(np.mean(losses[step])) for step in steps], [rates[step] for step in steps]
