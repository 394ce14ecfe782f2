"""How each consistency model trains with 8 uneven workers on digits: accuracy, staleness, time.

The real server and the real client on simulated time, so that a run is the same every time and nobody sleeps. Equal for
all models: workers and their speeds, batch, number of gradients (so epochs over the data), start, momentum, and the
shape of the schedule over the model's own updates. Each model has the peak rate that did best on two other seeds, out
of 0.05 to 0.8 (Sync) and 0.005 to 0.4, each about twice the one before.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optimd.demo import data, mlp
from optimd.worker import Worker
from optimd_server.runtime import Runtime, ServerConfig
from optimdpb.specs import SGDM, Async, Consistency, Linear, Ssp, Sync

from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network, SimulatedTransport, methods_of
from tests.simulation.process import Process

# Seconds of one gradient, by worker.
COMPUTE_S = (0.01, 0.01, 0.015, 0.02, 0.02, 0.03, 0.04, 0.06)
WORKERS = len(COMPUTE_S)
BATCH = 16
GRADIENTS = 3600
MEASURED = 12
MOMENTUM = 0.9
SEEDS = range(5)
PICTURE = Path(__file__).parent / "results" / "consistency.png"


@dataclass(frozen=True)
class Entry:
    """A model with the gradients behind one of its updates and its peak learning rate."""

    model: Consistency
    gradients_per_update: int
    lr: float


ENTRIES = {
    "Sync(8)": Entry(Sync(WORKERS, workers_min=1), WORKERS, 0.2),
    "Sync(8, quorum=6)": Entry(Sync(WORKERS, workers_min=1, quorum=6), 6, 0.4),
    "Ssp(3)": Entry(Ssp(3), 1, 0.02),
    "Async()": Entry(Async(), 1, 0.01),
    "Async(), rate of Sync": Entry(Async(), 1, 0.2),
    "Async(inverse)": Entry(Async(staleness_scale="inverse"), 1, 0.1),
    "Async(DC-ASGD)": Entry(Async(staleness_max=64, delay_compensation=2.0), 1, 0.02),
}


@dataclass
class Course:
    """What came of one run. curve: (simulated s, samples, accuracy on the held-out images)."""

    accuracy: float = 0.0
    curve: list[tuple[float, int, float]] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)


class Run:
    """One model, one seed."""

    def __init__(self, entry: Entry, seed: int, gradients: int = GRADIENTS) -> None:
        self.entry = entry
        self.gradients = gradients
        self.dice = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.loop = SimulatedLoop(lambda: 0.001)
        self.network = Network(self.loop, self.dice)
        self.digits = data.load()
        self.start = mlp.init(seed)
        self.course = Course()
        self.begun = 0
        self.processes: list[Process] = []

    def run(self) -> Course:
        """To the last gradient."""
        self.loop.call_soon(self._begin)
        self.loop.run()
        for process in self.processes:
            process.kill()
        self.loop.close()
        return self.course

    def _begin(self) -> None:
        runtime = Runtime(ServerConfig(threads=1), clock=self.loop.time)
        self.loop.create_task(runtime.start())
        self.network.methods = methods_of(runtime)
        for number in range(WORKERS):
            process = Process(self.loop, self.dice, lambda number=number: self._work(number))  # type: ignore[misc]
            self.processes.append(process)

    def _work(self, number: int) -> None:
        process, entry = self.processes[number], self.entry
        transport = SimulatedTransport(self.network, self.loop, f"w{number}", 1 << 20, lambda header, flat: None)
        worker = Worker(transport, process, "digits", f"w{number}", 60.0)
        updates = self.gradients // entry.gradients_per_update
        optimizer = SGDM(Linear(entry.lr, entry.lr / 10, updates), momentum=MOMENTUM)
        worker.ensure_job(self.start, optimizer, entry.model)
        parameters = worker.pull()
        while self.begun < self.gradients:
            self.begun += 1
            rows = self.rng.integers(0, len(self.digits.train_labels), BATCH)
            _, gradients = mlp.backward(parameters, self.digits.train_x[rows], self.digits.train_labels[rows])
            process.sleep(COMPUTE_S[number] * (0.9 + 0.2 * self.dice.random()))
            result = worker.step(gradients, weight=BATCH)
            parameters = result.parameters
            self._note(result.status, result.staleness, parameters)
        worker.leave()
        process.over = True
        if all(other.over for other in self.processes):
            self.course.accuracy = self._accuracy(parameters)
            self.loop.stop()

    def _note(self, status: str, staleness: int, parameters: dict[str, NDArray[np.float32]]) -> None:
        course = self.course
        course.statuses.append(status)
        if status == "applied":
            course.staleness.append(staleness)
        if len(course.statuses) % (self.gradients // MEASURED) == 0:
            course.curve.append((self.loop.time(), len(course.statuses) * BATCH, self._accuracy(parameters)))

    def _accuracy(self, parameters: dict[str, NDArray[np.float32]]) -> float:
        return mlp.accuracy(parameters, self.digits.test_x, self.digits.test_labels)


def courses(names: Iterable[str], seeds: Iterable[int], gradients: int = GRADIENTS) -> dict[str, list[Course]]:
    """Every model with every seed, on all cores."""
    tasks = [(name, seed, gradients) for name in names for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        found: dict[str, list[Course]] = {}
        for (name, _, _), course in zip(tasks, pool.starmap(_course, tasks, chunksize=1), strict=True):
            found.setdefault(name, []).append(course)
    return found


def _course(name: str, seed: int, gradients: int) -> Course:
    np.seterr(all="ignore")  # some of them diverge, which is the point
    return Run(ENTRIES[name], seed, gradients).run()


def table(found: dict[str, list[Course]]) -> str:
    """Markdown: accuracy, staleness and time of each model."""
    lines = [
        "| model | peak rate | accuracy, % | staleness, mean / max | gradients that counted | simulated time |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        accuracy = np.array([100 * run.accuracy for run in runs])
        staleness = np.concatenate([run.staleness for run in runs])
        counted = np.mean([run.statuses.count("applied") / len(run.statuses) for run in runs])
        lines.append(
            f"| `{name}` | {ENTRIES[name].lr:g} | {accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f} "
            f"| {staleness.mean():.1f} / {staleness.max()} | {100 * counted:.0f} % | {runs[0].curve[-1][0]:.1f} s |"
        )
    return "\n".join(lines)


def plot(found: dict[str, list[Course]], path: Path) -> None:
    """Staleness of what counted, and accuracy over simulated time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    styles = ("-", "--", "-.", ":", (0, (6, 1)), (0, (1, 1)), (0, (4, 2, 1, 2)))
    for (name, runs), style in zip(found.items(), styles, strict=True):
        staleness = np.concatenate([run.staleness for run in runs])
        share = np.bincount(staleness, minlength=30)[:30] / len(staleness)
        left.plot(share, linestyle=style, label=name)
        times = np.mean([[point[0] for point in run.curve] for run in runs], axis=0)
        accuracy = np.mean([[100 * point[2] for point in run.curve] for run in runs], axis=0)
        right.plot(times, accuracy, linestyle=style, label=name)
    left.set(xlabel="staleness, steps", ylabel="share of the gradients that counted", yscale="log", ylim=(1e-3, 1.2))
    right.set(xlabel="simulated seconds", ylabel="accuracy on held-out digits, %", ylim=(80, 99))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Print the table, draw the picture."""
    found = courses(ENTRIES, SEEDS)
    print(table(found))
    plot(found, PICTURE)
    print(f"\n{PICTURE}")


if __name__ == "__main__":
    main()
