"""One worker of the demo: what a training script of your own looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from optimdpb.specs import Optimizer

import optimd
from optimd.demo import data, mlp

BATCH = 32


@dataclass(frozen=True)
class Point:
    """One step as a worker saw it."""

    global_step: int
    loss: float
    learning_rate: float


def work_on(worker: optimd.Worker, index: int, workers: int, optimizer: Optimizer, steps: int) -> list[Point]:
    """Train until the job has made its steps. Returns this worker's history."""
    digits = data.load()
    rng = np.random.default_rng(index)
    worker.ensure_job(
        parameters=mlp.init(seed=0),
        optimizer=optimizer,
        consistency=optimd.Sync(workers=workers),
        steps_max=steps,
    )
    parameters = worker.pull()
    rank, world_size = index, workers
    history: list[Point] = []
    while True:
        mine = np.arange(rank, len(digits.train_x), world_size)
        batch = rng.choice(mine, min(BATCH, len(mine)), replace=False)
        loss, gradients = mlp.backward(parameters, digits.train_x[batch], digits.train_labels[batch])
        result = worker.step(gradients, weight=len(batch), loss=loss)
        if result.status == "applied":
            history.append(Point(result.global_step, loss, result.learning_rate))
        if result.finished:
            return history
        parameters = result.parameters
        if result.rank >= 0:  # the share of the data follows who is in the coming round
            rank, world_size = result.rank, result.world_size
