"""Each kernel against its equation in float64: 50 random hyper-parameter sets, 500 prescribed gradients.

How far float32 may stray is measured by peers that see the same gradients: the same equation in numpy's float32, and
torch's fused optimizer where torch is installed and has the rule.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.core.effects import Contribution
from optimd_server.runtime.threads import KernelThreads
from optimd_server.state import Shard, piece_bounds
from optimdpb.specs import Layout, Optimizer, Tensor

from tests.conformance.optimizers.references import ROWS, Row, State, constant_lr

Float32s = NDArray[np.float32]

SETS = 50
STEPS = 500
ELEMENTS = 1000
ERROR_RATIO_MAX = 1.5
LAYOUT = Layout((Tensor("w", (ELEMENTS,)),))
CONTRIBUTION = (Contribution("w0", 1, 1, 1.0),)

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def gradients_of(rng: np.random.Generator) -> list[Float32s]:
    """Gradients over several orders of magnitude, between elements and between steps."""
    scales = np.exp(rng.standard_normal(ELEMENTS)) * 10.0 ** rng.uniform(-2, 1)
    return [(scales * rng.standard_normal(ELEMENTS) * rng.uniform(0.1, 2.0)).astype(np.float32) for _ in range(STEPS)]


def cases(row: Row) -> Iterator[tuple[Optimizer, Float32s, list[Float32s]]]:
    """SETS triples of specification, start and gradients."""
    for number in range(SETS):
        rng = np.random.default_rng([number, *row.name.encode()])
        yield row.draw(rng), rng.standard_normal(ELEMENTS).astype(np.float32), gradients_of(rng)


def by_kernel(spec: Optimizer, start: Float32s, gradients: list[Float32s]) -> NDArray[np.float64]:
    """Parameters after every update by the kernel."""
    shard = Shard(spec, piece_bounds(LAYOUT), 1)
    shard.parameters[:] = start
    for k, gradient in enumerate(gradients):
        shard.stage("w0", 1)[:] = gradient
        shard.apply(k, constant_lr(spec), 1.0, k, CONTRIBUTION, KernelThreads.run_inline)
    return shard.parameters.astype(np.float64)


def by_equation(
    row: Row, spec: Optimizer, start: Float32s, gradients: list[Float32s], dtype: type
) -> NDArray[np.float64]:
    """Parameters after every update by the equation in a dtype."""
    state = State(start.astype(dtype))
    for gradient in gradients:
        row.equation(spec, constant_lr(spec), state, gradient.astype(dtype))
        state.k += 1
    assert state.w.dtype == dtype
    return state.w.astype(np.float64)


def by_torch(row: Row, spec: Optimizer, start: Float32s, gradients: list[Float32s]) -> NDArray[np.float64]:
    """Parameters after every update by torch's fused optimizer."""
    import torch

    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    make = getattr(torch.optim, row.torch_name)
    optimizer = make([parameter], lr=constant_lr(spec), fused=True, **row.torch_arguments(spec))
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    return np.asarray(parameter.detach().numpy(), np.float64)


def rms(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(error**2)))


def check_against(row: Row, peer: Callable[[Optimizer, Float32s, list[Float32s]], NDArray[np.float64]]) -> None:
    for spec, start, gradients in cases(row):
        exact = by_equation(row, spec, start, gradients, np.float64)
        ours, theirs = by_kernel(spec, start, gradients), peer(spec, start, gradients)
        assert rms(theirs - exact) < 0.1 * rms(exact - start), f"the peer computes something else: {spec}"
        assert rms(ours - exact) <= ERROR_RATIO_MAX * rms(theirs - exact), spec


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_as_exact_as_the_equation_in_float32(row: Row) -> None:
    check_against(row, lambda spec, start, gradients: by_equation(row, spec, start, gradients, np.float32))


@needs_torch
@pytest.mark.parametrize("row", [row for row in ROWS if row.torch_name], ids=lambda row: row.name)
def test_as_exact_as_torch_fused(row: Row) -> None:
    check_against(row, lambda spec, start, gradients: by_torch(row, spec, start, gradients))
