"""The problem that workers in other languages solve, in Python, and such a worker as a child.

A plane through points, by least squares: the numbers are such that every language computes the same to the bit.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optimd

ROOT = Path(__file__).parents[2]
POINTS, FEATURES, STEPS = 64, 5, 200
TRUTH = [1.0, -2.0, 3.0, -4.0, 5.0]
ZEROS = {"weight": np.zeros((1, FEATURES), np.float32), "bias": np.zeros((), np.float32)}
NO_DECAY = [optimd.Group("*", ndim_max=1, weight_decay=0.0)]


@dataclass(frozen=True)
class Trained:
    """What a worker prints at its end: how many of its pushes were applied, and the loss over all points."""

    applied: int
    step: int
    loss: float
    parameters: list[float]


def gradient(flat: Sequence[float], rank: int, workers: int) -> tuple[list[float], float, int]:
    """Of half the mean square over every workers-th point from rank on; the loss; the number of points."""
    sums, loss, count = [0.0] * (FEATURES + 1), 0.0, 0
    for i in range(rank, POINTS, workers):
        x = [((i * (j + 3) + j * j) % 17 - 8) / 8 for j in range(FEATURES)]
        residual = flat[FEATURES] - (0.5 + sum(a * t for a, t in zip(x, TRUTH, strict=True)))
        for a, w in zip(x, flat, strict=False):
            residual += a * w
        for j, a in enumerate([*x, 1.0]):
            sums[j] += residual * a
        loss += residual * residual
        count += 1
    return [total / count for total in sums], loss / count / 2, count


def work(
    address: str,
    job: str,
    worker_name: str = "python",
    rank: int = 1,
    workers: int = 2,
    before_step: Callable[[int], object] = lambda step: None,
    groups: list[optimd.Group] = NO_DECAY,
) -> Trained:
    """Train to the end as one of two workers. before_step: called with each step before its push."""
    with optimd.connect(address, job=job, worker=worker_name, on_rejected="ignore") as worker:
        rule = optimd.AdamW(optimd.Cosine(0.3, 1e-3, STEPS), weight_decay=0.001)
        worker.ensure_job(ZEROS, rule, optimd.Sync(workers), steps_max=STEPS, groups=groups)
        parameters, applied, finished, step = worker.pull(), 0, False, 0
        while not finished:
            before_step(step)
            mean, loss, count = gradient(_flat(parameters), rank, workers)
            mine = {"weight": np.array([mean[:FEATURES]], np.float32), "bias": np.float32(mean[FEATURES])}
            result = worker.step(mine, weight=count, loss=loss)
            applied += result.status == "applied"
            parameters, finished, step = result.parameters, result.finished, result.global_step
        flat = _flat(parameters)
        return Trained(applied, step, gradient(flat, 0, 1)[1], flat)


def _flat(parameters: Mapping[str, Any]) -> list[float]:
    return [*parameters["weight"][0].tolist(), float(parameters["bias"])]


def by_python_alone(address: str) -> Trained:
    """The same job, undisturbed, by two workers in Python."""
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(work, address, "python-alone", f"w{rank}", rank) for rank in (0, 1)]
        first, second = (one.result(60) for one in both)
    assert first == second
    return first


class Other:
    """A worker in another language, as a child: the first of two. `address`: of the server, as the child sees it."""

    def __init__(self, command: list[str | Path], cwd: Path = ROOT, **environment: str) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def line(self) -> str:
        """The next line it says on stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().strip()

    def end(self) -> tuple[int, str, str]:
        """Its exit status and what it said, on stdout and since then on stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def trained(self) -> Trained:
        """What it came to."""
        status, out, err = self.end()
        assert status == 0, err
        said = json.loads(out)
        # As few digits as float32 needs.
        return Trained(**{**said, "parameters": [float(np.float32(value)) for value in said["parameters"]]})
