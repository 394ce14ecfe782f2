"""Workers of a job in shared memory, for tests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import optimd
from numpy.typing import NDArray
from optimd_server.runtime import ServerConfig
from optimdpb.specs import Layout, Tensor

Float32s = NDArray[np.float32]
# Odd, so that shards and threads meet at odd places.
LAYOUT = Layout((Tensor("w", (70_001,)), Tensor("b", (7,))))
START = np.linspace(-1, 1, LAYOUT.elements).astype(np.float32)
LEASE_S = 1.0


def named(flat: Float32s) -> dict[str, Float32s]:
    return {"w": flat[:70_001], "b": flat[70_001:]}


def gradient(*seed: int) -> Float32s:
    return np.random.default_rng(seed).standard_normal(LAYOUT.elements).astype(np.float32)


def config(**fields: Any) -> ServerConfig:
    return ServerConfig(**{"threads": 2, "lease_s": LEASE_S, "tick_interval_s": 0.05, **fields})


def joined(address: str, name: str = "w0", model: Any = None, **options: Any) -> optimd.Worker:
    worker = optimd.connect(address, job="j", worker=name, **options)
    worker.ensure_job(named(START), optimd.Adam(0.01), model or optimd.Sync(1))
    worker.pull(copy=False)
    return worker


def shares(worker: optimd.Worker) -> bool:
    return worker._membership.memory is not None


def in_place(worker: optimd.Worker, step: int, index: int) -> Any:
    buffers = worker.gradient_buffers()
    for name, values in named(gradient(step, index)).items():
        buffers[name][...] = values
    return worker.step(buffers, weight=1.0 + index, copy=False)


def everybody(count: int, work: Callable[[int], None]) -> None:
    """work(index) of so many workers at once, to the end of all; raises what one of them raised."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, index) for index in range(count)]:
            done.result(60)
