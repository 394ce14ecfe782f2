"""The peer that people build themselves: a Ray actor with the parameters, torch's fused Adam, the object store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

Float32s = NDArray[np.float32]


@ray.remote(num_cpus=1)
class ParameterActor:
    """Adds up the gradients of all workers, then makes one step; everybody gets the parameters."""

    def __init__(self, elements: int, workers: int) -> None:
        import torch

        self._torch = torch
        self._parameter = torch.zeros(elements, requires_grad=True)
        self._optimizer = torch.optim.Adam([self._parameter], lr=1e-3, fused=True)
        self._workers = workers
        self._gradients: list[Any] = []
        self._closed = asyncio.Event()
        self._answer: Any = None

    async def step(self, gradient: Float32s) -> Any:
        """One worker's part of a round."""
        self._gradients.append(self._torch.from_numpy(gradient))
        if len(self._gradients) < self._workers:
            closed = self._closed
            await closed.wait()
            return self._answer
        total = self._gradients[0]
        if self._workers > 1:
            total = total.clone()
            for other in self._gradients[1:]:
                total += other
            total /= self._workers
        self._parameter.grad = total
        self._optimizer.step()
        self._gradients = []
        # Put once for all: the reference travels, not the vector.
        self._answer = (
            ray.put(self._parameter.detach().numpy()) if self._workers > 1 else self._parameter.detach().numpy()
        )
        closed, self._closed = self._closed, asyncio.Event()
        closed.set()
        return self._answer


@ray.remote(num_cpus=0)
class RayWorker:
    """Pushes the same gradient each round."""

    def __init__(self, server: Any, elements: int, seed: int) -> None:
        self._server = server
        self._gradient = np.random.default_rng(seed).standard_normal(elements, np.float32)

    def round(self) -> float:
        """Push, wait, pull; the first parameter."""
        parameters = ray.get(ray.get(self._server.step.remote(ray.put(self._gradient))))
        return float(parameters[0])


def one_worker(gradient: Float32s) -> Callable[[], object]:
    """A step of the only worker, which is this process."""
    server = ParameterActor.remote(gradient.size, 1)  # type: ignore[attr-defined]
    return lambda: ray.get(server.step.remote(ray.put(gradient)))


def crew(elements: int, workers: int) -> Callable[[], object]:
    """A round of workers that are actors themselves."""
    server = ParameterActor.remote(elements, workers)  # type: ignore[attr-defined]
    actors = [RayWorker.remote(server, elements, seed) for seed in range(workers)]  # type: ignore[attr-defined]
    return lambda: ray.get([actor.round.remote() for actor in actors])
