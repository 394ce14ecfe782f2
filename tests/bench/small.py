"""A model of 1,000 parameters: one step against one empty call, and against a call of a Ray actor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import optimd
import ray

from tests.bench import ray_peer
from tests.bench.pairs import Claim, Figure
from tests.support.servers import ServerProcess
from tests.support.unary import EmptyServer

ELEMENTS = 1_000
CALLS = 300
ROUNDS = 9


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Medians and 99th percentiles in milliseconds; ratios to the empty call."""
    values = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with ServerProcess() as server, ServerProcess("--no-shared-memory") as far, EmptyServer() as empty:
            worker, remote = _worker(server.address), _worker(far.address)
            peers: dict[str, Callable[[], object]] = {
                "empty unary call": empty.call,
                "optimd step": lambda: worker.step({"w": values}),
                "optimd step, gRPC": lambda: remote.step({"w": values}),
                "Ray actor": ray_peer.one_worker(values),
            }
            times = _times(peers)
            for each in (worker, remote):
                each.leave()
                each.close()
    finally:
        ray.shutdown()
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in times.items()}
    figures, ratios = [], {}
    for name, turns in times.items():
        pairs = zip(medians[name], medians["empty unary call"], strict=True)
        ratios[name] = statistics.median(mine / measure for mine, measure in pairs)
        every = sorted(taken for turn in turns for taken in turn)
        figures.append(Figure(f"{name}, p50", statistics.median(every) * 1e3, ratios[name]))
        p99 = every[len(every) * 99 // 100]
        figures.append(Figure(f"{name}, p99", p99 * 1e3, p99 / statistics.median(medians["empty unary call"])))
    return {
        f"adam, {ELEMENTS:,} parameters": [
            *figures,
            Claim("step / empty call, p50", ratios["optimd step"], 1.5),
            Claim("Ray actor / step, p50", ratios["Ray actor"] / ratios["optimd step"], 1.0, at_most=False),
        ]
    }


def _worker(address: str) -> optimd.Worker:
    worker = optimd.connect(address, job="small", worker="w0")
    worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.Adam(1e-3), optimd.Sync(1))
    worker.pull()
    return worker


def _times(peers: dict[str, Callable[[], object]]) -> dict[str, list[list[float]]]:
    """Seconds of CALLS calls of each peer, by turn; a turn before that does not count."""
    times: dict[str, list[list[float]]] = {name: [] for name in peers}
    for turn in range(ROUNDS + 1):
        for name, call in peers.items():
            taken = []
            for _ in range(CALLS):
                started_s = time.perf_counter()
                call()
                taken.append(time.perf_counter() - started_s)
            if turn:
                times[name].append(taken)
    return times
