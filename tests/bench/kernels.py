"""One update by our kernels, by torch fused and foreach, and by a kernel that only moves the same memory.

Every line may use as many threads; on small vectors ours uses one all the same, as the server does. Without torch only
the memory line is there to compare with.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimd_server.config import ServerConfig
from optimdpb.specs import SGDM, Adam, AdamW, Optimizer

from tests.bench.pairs import Figure, alternate
from tests.bench.streams import Streams
from tests.support.trainer import Part, Trainer, spec_of

ELEMENTS = (10_000, 1_000_000, 25_000_000, 100_000_000)
RULES: dict[str, tuple[Optimizer, str, dict[str, Any]]] = {
    "adam": (Adam(1e-3), "Adam", {}),
    "adamw": (AdamW(1e-3), "AdamW", {}),
    "sgdm": (SGDM(1e-3), "SGD", {"momentum": 0.9}),
}
THREADS = (1, 2)
# Small vectors are updated so often that a timed run takes milliseconds.
TURN_ELEMENTS = 20_000_000
ROUNDS = 9


def run() -> dict[str, list[Figure]]:
    """Figures by rule, elements and threads; ratios to our kernel: above 1 is slower than ours."""
    figures = {}
    for elements in ELEMENTS:
        gradient = np.random.default_rng(0).standard_normal(elements, np.float32)
        for rule in RULES:
            for threads in THREADS:
                figures[f"{rule} {elements:,} parameters, {threads} threads"] = _update(rule, gradient, threads)
                gc.collect()
    return figures


def _update(rule: str, gradient: NDArray[np.float32], threads: int) -> list[Figure]:
    spec, name, arguments = RULES[rule]
    ours = 1 if gradient.nbytes <= ServerConfig().one_thread_bytes_max else threads
    trainer = Trainer(spec_of(spec, gradient.size), np.zeros_like(gradient), threads=ours)
    parts = trainer.stage([Part("w0", 1.0, gradient)])
    streams = Streams([gradient], trainer.slots.shape[0], ours)
    turns = max(1, TURN_ELEMENTS // gradient.size)
    peers: dict[str, Callable[[], object]] = {
        "optimd": lambda: trainer.close_round(parts),
        "the same memory, no rule": streams.move,
    }
    if importlib.util.find_spec("torch"):
        peers["torch fused"] = _torch(gradient, threads, name, {"fused": True, **arguments})
        peers["torch foreach"] = _torch(gradient, threads, name, {"foreach": True, **arguments})
    try:
        return alternate({peer: _repeated(call, turns) for peer, call in peers.items()}, ROUNDS)
    finally:
        trainer.close()
        streams.close()


def _repeated(call: Callable[[], object], turns: int) -> Callable[[], object]:
    def run_all() -> None:
        for _ in range(turns):
            call()

    return run_all


def _torch(gradient: NDArray[np.float32], threads: int, name: str, arguments: dict[str, Any]) -> Callable[[], object]:
    import torch

    parameter = torch.zeros(gradient.size, requires_grad=True)
    parameter.grad = torch.from_numpy(gradient)
    optimizer = getattr(torch.optim, name)([parameter], lr=1e-3, **arguments)

    def step() -> None:
        torch.set_num_threads(threads)
        optimizer.step()

    return step
