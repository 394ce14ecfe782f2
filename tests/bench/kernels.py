"""One Adam update: our kernel on one and all threads, numpy over cache-sized blocks, torch fused if installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from optimd_server.core.effects import Contribution
from optimd_server.runtime.threads import KernelThreads
from optimd_server.state import Shard, piece_bounds
from optimdpb.specs import Adam, Layout, Tensor

from tests.bench.pairs import Figure, alternate

ELEMENTS = (1_000_000, 25_000_000)
ROUNDS = 9
BLOCK = 16 * 1024


def run() -> dict[str, list[Figure]]:
    """Figures by number of elements; ratios to our kernel on one thread."""
    return {f"adam {elements:,} parameters": _adam(elements) for elements in ELEMENTS}


def _adam(elements: int) -> list[Figure]:
    gradient = np.random.default_rng(0).standard_normal(elements, np.float32)
    threads = KernelThreads(len(os.sched_getaffinity(0)))
    peers: dict[str, Callable[[], object]] = {
        "optimd, 1 thread": _ours(gradient, KernelThreads(1)),
        f"optimd, {threads.threads} threads": _ours(gradient, threads),
        "numpy in blocks": _numpy(gradient),
    }
    if importlib.util.find_spec("torch"):
        for count in sorted({1, threads.threads}):
            peers[f"torch fused, {count} threads"] = _torch(gradient, count)
    return alternate(peers, ROUNDS)


def _ours(gradient: NDArray[np.float32], threads: KernelThreads) -> Callable[[], object]:
    layout = Layout((Tensor("w", (gradient.size,)),))
    shard = Shard(Adam(1e-3), piece_bounds(layout), threads.threads)
    shard.stage("w", 1)[:] = gradient
    parts = (Contribution("w", 1, 1, 1.0),)
    return lambda: shard.apply(shard.step, 1e-3, 1.0, shard.step, parts, threads.run)


def _numpy(gradient: NDArray[np.float32]) -> Callable[[], object]:
    w, m, v = (np.zeros_like(gradient) for _ in range(3))
    scratch = np.empty(BLOCK, np.float32)

    def step() -> None:
        for start in range(0, gradient.size, BLOCK):
            block = slice(start, start + BLOCK)
            g, t = gradient[block], scratch[: gradient[block].size]
            m[block] += np.multiply(g - m[block], np.float32(0.1), out=t)
            v[block] += np.multiply(g * g - v[block], np.float32(1e-3), out=t)
            np.sqrt(v[block], out=t)
            t += np.float32(1e-8)
            w[block] -= np.divide(m[block], t, out=t) * np.float32(1e-3)

    return step


def _torch(gradient: NDArray[np.float32], threads: int) -> Callable[[], object]:
    import torch

    parameter = torch.zeros(gradient.size, requires_grad=True)
    parameter.grad = torch.from_numpy(gradient)
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)

    def step() -> None:
        torch.set_num_threads(threads)
        optimizer.step()

    return step
