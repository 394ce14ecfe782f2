"""One worker on the server's machine: push, update and pull against the step of a local optimizer, and a Ray actor."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import numpy as np
import optimd
import ray
import torch

from tests.bench import ray_peer
from tests.bench.pairs import Claim, Figure, turns
from tests.support.servers import ServerProcess
from tests.support.unary import EmptyServer

ELEMENTS = (1_000_000, 25_000_000, 100_000_000)
ROUNDS = 9


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Figures by number of parameters; ratios to the local step with a check of its gradient."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=3_000_000_000)
    try:
        with ServerProcess() as server, EmptyServer() as empty:
            results = {}
            for elements in ELEMENTS:
                results[f"adam, {elements:,} parameters, one worker"] = _one(server.address, empty, elements)
                gc.collect()
            return results
    finally:
        ray.shutdown()


def _one(address: str, empty: EmptyServer, elements: int) -> Sequence[Figure | Claim]:
    values = np.random.default_rng(0).standard_normal(elements, np.float32)
    unguarded, guarded = _local(values)
    with optimd.connect(address, job=f"same-host-{elements}", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.Adam(1e-3), optimd.Sync(1))
        worker.pull(copy=False)
        for _ in range(2):  # a real worker computes its gradient there
            buffers = worker.gradient_buffers()
            buffers["w"][...] = values
            worker.step(buffers, copy=False)
        peers: dict[str, Callable[[], object]] = {
            "torch, check + fused step": guarded,
            "torch, fused step": unguarded,
            "optimd, in place": lambda: worker.step(worker.gradient_buffers(), copy=False),
            "optimd, plain arrays": lambda: worker.step({"w": values}),
            "Ray actor": ray_peer.one_worker(values),
            "two empty calls": lambda: (empty.call(), empty.call()),
        }
        found = turns(peers, ROUNDS)
    in_place, plain = "optimd, in place", "optimd, plain arrays"
    figures = found.figures()
    if elements <= 1_000_000:
        bound = found.median_s("torch, check + fused step") + found.median_s("two empty calls")
        return [*figures, Claim("in place / (local step + two empty calls)", found.median_s(in_place) / bound, 1.0)]
    # Both make the same step; what is left is the way there and back, and for optimd the check of the gradient.
    fused_s = found.median_s("torch, fused step")
    added = {name: max(found.median_s(name) - fused_s, 1e-4) for name in ("Ray actor", in_place)}
    return [
        *figures,
        Claim("in place / check + fused step", found.ratio(in_place, "torch, check + fused step"), 1.15),
        Claim("in place / fused step", found.ratio(in_place, "torch, fused step"), 1.6),
        Claim("plain arrays / fused step", found.ratio(plain, "torch, fused step"), 2.5),
        Claim("Ray actor / in place", found.ratio("Ray actor", in_place), 6.0, at_most=False),
        Claim(
            "added to the fused step: Ray actor / in place", added["Ray actor"] / added[in_place], 6.0, at_most=False
        ),
    ]


def _local(values: np.ndarray) -> tuple[Callable[[], object], Callable[[], object]]:
    parameter = torch.zeros(values.size, requires_grad=True)
    parameter.grad = torch.from_numpy(values)
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)

    def guarded() -> None:
        assert parameter.grad is not None
        assert torch.isfinite(torch.linalg.vector_norm(parameter.grad))
        optimizer.step()

    return optimizer.step, guarded
