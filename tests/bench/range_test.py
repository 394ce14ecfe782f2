"""What the range test's suggestion is worth: trained with it, and with every rate of a grid, on digits.

`python -m tests.bench.range_test`. Four workers under Sync on a real server; for each seed another start and other
batches. One range test for each seed on an untrained job, then training from the same start: with triangles
between lr_base and lr_max, with the constant rate between them, and with each constant rate of the grid.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optimd
from numpy.typing import NDArray
from optimd.demo import data, mlp
from optimd_server.runtime import ServerConfig
from optimdpb.specs import SGDM, Adam, Cyclical, Optimizer, Schedule

from tests.support.servers import ThreadServer

WORKERS = 4
BATCH = 32
STEPS = 300
SEEDS = range(5)
SWEEP_STEPS = 200
RULES: dict[str, Callable[[Schedule | float], Optimizer]] = {"SGDM": SGDM, "Adam": Adam}
GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 3))
RESULTS = Path(__file__).parent / "results"

Parameters = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Runs:
    """One rule and seed: the range test, and the accuracy of each way to train."""

    test: optimd.RangeTestResult
    cyclical: float
    constant: float
    grid: tuple[float, ...]


def together(server: ThreadServer, job: str, seed: int, rule: Optimizer, steps: int, work: Callable[..., None]) -> None:
    """Every worker calls work(worker, compute) on the same job; compute gives it a batch."""
    digits = data.load()
    failed: list[BaseException] = []

    def run(index: int) -> None:
        dice = np.random.default_rng([seed, index])

        def compute(parameters: Parameters) -> tuple[Parameters, float, float]:
            batch = dice.choice(len(digits.train_x), BATCH, replace=False)
            loss, gradients = mlp.backward(parameters, digits.train_x[batch], digits.train_labels[batch])
            return gradients, float(BATCH), loss

        try:
            with optimd.connect(server.address, job=job, worker=f"w{index}") as worker:
                worker.ensure_job(mlp.init(seed), rule, optimd.Sync(workers=WORKERS), steps_max=steps)
                work(worker, compute)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def range_test(server: ThreadServer, job: str, seed: int, rule: Optimizer) -> optimd.RangeTestResult:
    """On an untrained job."""
    found: list[optimd.RangeTestResult] = []
    together(server, job, seed, rule, STEPS, lambda worker, compute: found.append(sweep(worker, compute)))
    return found[0]


def sweep(worker: optimd.Worker, compute: Callable[..., tuple[Parameters, float, float]]) -> optimd.RangeTestResult:
    """The range test as one worker calls it."""
    return worker.range_test(compute, steps=SWEEP_STEPS)


def accuracy(server: ThreadServer, job: str, seed: int, rule: Optimizer) -> float:
    """On held-out digits after STEPS updates."""

    def train(worker: optimd.Worker, compute: Callable[..., tuple[Parameters, float, float]]) -> None:
        parameters, finished = worker.pull(), False
        while not finished:
            gradients, weight, loss = compute(parameters)
            # A rate beyond the edge: the gradient is no number any more, and training stands still.
            result = worker.step(gradients, weight=weight, loss=loss)
            parameters, finished = result.parameters, result.finished or result.status == "rejected"

    together(server, job, seed, rule, STEPS, train)
    digits = data.load()
    with optimd.connect(server.address, job=job, observer=True) as observer:
        return mlp.accuracy(observer.pull(), digits.test_x, digits.test_labels)


def one(name: str, seed: int, grid: tuple[float, ...] = GRID) -> Runs:
    """All runs of one rule and seed, on a server of their own."""
    rule = RULES[name]
    np.seterr(all="ignore")  # beyond the edge everything overflows, which is the point
    with ThreadServer(ServerConfig(threads=1)) as server:
        found = range_test(server, "test", seed, rule(1e-3))
        assert found.lr_base is not None, found.explanation
        assert found.lr_max is not None, found.explanation
        assert found.lr is not None
        triangles = Cyclical(found.lr_base, found.lr_max, step_size=STEPS // 6, policy="triangular2")
        return Runs(
            found,
            accuracy(server, "cyclical", seed, rule(triangles)),
            accuracy(server, "constant", seed, rule(found.lr)),
            tuple(accuracy(server, f"grid-{lr:g}", seed, rule(lr)) for lr in grid),
        )


def main() -> None:
    """Print a table for each rule, draw the range test of the first seed."""
    tasks = [(name, seed) for name in RULES for seed in SEEDS]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        found = pool.starmap(one, tasks, chunksize=1)
    for name in RULES:
        runs = [run for (of, _), run in zip(tasks, found, strict=True) if of == name]
        print(f"\n{name}, mean accuracy of {len(runs)} seeds after {STEPS} updates, %")
        grid = 100 * np.mean([run.grid for run in runs], axis=0)
        best = int(np.argmax(grid))
        for lr, mean in zip(GRID, grid, strict=True):
            print(f"  lr {lr:<10.3g} {mean:6.2f}{'   the best of the grid' if lr == GRID[best] else ''}")
        rates = " ".join(f"{run.test.lr_base:.3g}..{run.test.lr_max:.3g}" for run in runs)
        print(f"  suggested  {rates}")
        for label, figures in (
            ("triangles from lr_base to lr_max", [run.cyclical for run in runs]),
            ("constant sqrt(lr_base lr_max)", [run.constant for run in runs]),
        ):
            mean = 100 * float(np.mean(figures))
            print(f"  {label:<34} {mean:6.2f}   {mean - grid[best]:+.2f} points")
        picture = RESULTS / f"range_test_{name.lower()}.png"
        runs[0].test.save_picture(picture)
        print(f"  {picture}")


if __name__ == "__main__":
    main()
