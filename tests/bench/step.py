"""Push, update and pull by one worker on this host: optimd over gRPC against a Ray actor that holds the parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optimd
import ray
from numpy.typing import NDArray

from tests.bench.pairs import Figure, alternate
from tests.support.servers import ServerProcess

ELEMENTS = (1_000, 1_000_000, 25_000_000)
ROUNDS = 7


def run() -> dict[str, list[Figure]]:
    """Figures by number of elements; ratios to optimd. Both sides do the same update, w -= lr g."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with ServerProcess() as server:
            return {f"sgd {elements:,} parameters": _sgd(server.address, elements) for elements in ELEMENTS}
    finally:
        ray.shutdown()


def _sgd(address: str, elements: int) -> list[Figure]:
    gradient = np.random.default_rng(0).standard_normal(elements, np.float32)
    with optimd.connect(address, job=f"bench-{elements}", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(0.1), optimd.Sync(1))
        worker.pull()
        peers: dict[str, Callable[[], object]] = {
            "optimd, gRPC": lambda: worker.step({"w": gradient}),
            "Ray actor, object store": _ray_actor(gradient),
        }
        return alternate(peers, ROUNDS)


def _ray_actor(gradient: NDArray[np.float32]) -> Callable[[], object]:
    @ray.remote
    class ParameterServer:
        def __init__(self, elements: int) -> None:
            self.parameters = np.zeros(elements, np.float32)

        def step(self, gradient: NDArray[np.float32]) -> NDArray[np.float32]:
            self.parameters -= np.float32(0.1) * gradient
            return self.parameters

    actor = ParameterServer.remote(gradient.size)
    return lambda: ray.get(actor.step.remote(gradient))
