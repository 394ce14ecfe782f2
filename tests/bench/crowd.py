"""Processor time of the server for each push, with 1 to 64 workers that push at once; each push is an update."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optimd

from tests.bench.pairs import Claim, Figure
from tests.support.servers import ServerProcess

ELEMENTS = 1_000_000
WORKERS = (1, 4, 16, 64)
PUSHES = 256
ROUNDS = 7
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Milliseconds of processor time for a push; ratios to one worker."""
    results: dict[str, Sequence[Figure | Claim]] = {}
    for title, arguments, bound in (("shared memory", (), 1.2), ("gRPC", ("--no-shared-memory",), 1.3)):
        with ServerProcess(*arguments) as server:
            crowds = {count: _crowd(server.address, count) for count in WORKERS}
            times: dict[int, list[float]] = {count: [] for count in WORKERS}
            for _ in range(ROUNDS):
                for count, crowd in crowds.items():
                    before_s = _cpu_s(server.process.pid)
                    _push(crowd)
                    times[count].append((_cpu_s(server.process.pid) - before_s) / PUSHES)
            for crowd in crowds.values():
                for worker in crowd:
                    worker.leave()
                    worker.close()
        ratios = {
            count: statistics.median(mine / one for mine, one in zip(times[count], times[1], strict=True))
            for count in WORKERS
        }
        figures = [
            Figure(f"{count} workers", statistics.median(times[count]) * 1e3, ratios[count]) for count in WORKERS
        ]
        claim = Claim("the most of any number of workers / one", max(ratios.values()), bound)
        results[f"sgd, {ELEMENTS:,} parameters, {title}"] = [*figures, claim]
    return results


def _crowd(address: str, count: int) -> list[optimd.Worker]:
    workers = []
    for index in range(count):
        worker = optimd.connect(address, job=f"crowd-{count}", worker=f"w{index:02}")
        worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(1e-3), optimd.Async())
        worker.pull(copy=False)
        workers.append(worker)
    return workers


def _push(crowd: list[optimd.Worker]) -> None:
    """PUSHES in all, by everybody at once."""

    def work(worker: optimd.Worker) -> None:
        for _ in range(PUSHES // len(crowd)):
            worker.push(worker.gradient_buffers())

    threads = [threading.Thread(target=work, args=(worker,)) for worker in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
