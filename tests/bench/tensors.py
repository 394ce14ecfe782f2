"""Ten thousand tensors against two of the same bytes in all, two groups of hyper-parameters, in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import optimd
from numpy.typing import NDArray

from tests.bench.pairs import Claim, Figure, turns
from tests.support.servers import ServerProcess

ELEMENTS = 25_000_000
TENSORS = 10_000
ROUNDS = 9
GROUPS = [optimd.Group("b*", weight_decay=0.0, lr_multiplier=2.0)]
Arrays = dict[str, NDArray[np.float32]]


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Ratios to two tensors, in place."""
    values = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    with ServerProcess() as server:
        few, many = _named(values, 2), _named(values, TENSORS)
        names = "two tensors, in place", "10,000 tensors, in place", "two tensors, plain", "10,000 tensors, plain"
        peers: dict[str, Callable[[], object]] = {
            names[0]: _in_place(server.address, "few", few),
            names[1]: _in_place(server.address, "many", many),
            names[2]: _plain(server.address, "few-plain", few),
            names[3]: _plain(server.address, "many-plain", many),
        }
        found = turns(peers, ROUNDS)
    claims = [
        Claim("10,000 / two, in place", found.ratio(names[1], names[0]), 1.1),
        Claim("10,000 / two, plain arrays", found.ratio(names[3], names[2]), 1.7),
    ]
    return {f"adamw, {ELEMENTS:,} parameters": [*found.figures(), *claims]}


def _named(values: NDArray[np.float32], count: int) -> Arrays:
    """Groups in turns: a, b, a, b, …"""
    parts = np.split(values, count)
    return {f"{'ab'[place % 2]}{place:05}": part.copy() for place, part in enumerate(parts)}


def _worker(address: str, job: str, arrays: Arrays) -> optimd.Worker:
    worker = optimd.connect(address, job=job, worker="w0")
    worker.ensure_job(arrays, optimd.AdamW(1e-3), optimd.Sync(1), groups=GROUPS)
    worker.pull(copy=False)
    return worker


def _in_place(address: str, job: str, arrays: Arrays) -> Callable[[], object]:
    worker = _worker(address, job, arrays)
    for _ in range(2):
        buffers = worker.gradient_buffers()
        for name, array in arrays.items():
            buffers[name][...] = array
        worker.step(buffers, copy=False)
    return lambda: worker.step(worker.gradient_buffers(), copy=False)


def _plain(address: str, job: str, arrays: Arrays) -> Callable[[], object]:
    worker = _worker(address, job, arrays)
    return lambda: worker.step(arrays)
