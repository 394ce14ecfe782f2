"""The same rule over the same gradients by our kernels, by its equation, by torch and by optax."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from optimdpb.specs import Optimizer

from tests.conformance.optimizers.equations import State
from tests.conformance.optimizers.rows import Row, constant_lr
from tests.support.trainer import Trainer, spec_of

Array = NDArray[np.float64]
Float32s = NDArray[np.float32]

STEPS = 300
ELEMENTS = 1000
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_OPTAX = importlib.util.find_spec("optax") is not None


def gradients_of(rng: np.random.Generator, steps: int = STEPS, elements: int = ELEMENTS) -> list[Float32s]:
    """Gradients over several orders of magnitude, between elements and between steps."""
    scales = np.exp(rng.standard_normal(elements)) * 10.0 ** rng.uniform(-2, 1)
    return [(scales * rng.standard_normal(elements) * rng.uniform(0.1, 2.0)).astype(np.float32) for _ in range(steps)]


def cases(row: Row, sets: int) -> Iterator[tuple[Optimizer, Float32s, list[Float32s]]]:
    """Triples of specification, start and gradients; the same for the same row."""
    for number in range(sets):
        rng = np.random.default_rng([number, *row.name.encode()])
        yield row.draw(rng), rng.standard_normal(ELEMENTS).astype(np.float32), gradients_of(rng)


def by_kernel(spec: Optimizer, start: Float32s, gradients: Sequence[Float32s]) -> Array:
    """Parameters after every update by the real shards."""
    trainer = Trainer(spec_of(spec, start.size), start)
    for gradient in gradients:
        trainer.update(gradient)
    return trainer.parameters.astype(np.float64)


def by_equation(row: Row, spec: Optimizer, start: Float32s, gradients: Sequence[Float32s], dtype: type) -> Array:
    """Parameters after every update by the equation in a dtype."""
    return final_state(row, spec, start, gradients, dtype).w.astype(np.float64)


def final_state(row: Row, spec: Optimizer, start: Float32s, gradients: Sequence[Float32s], dtype: type) -> State:
    """The equation's state at the end."""
    state = State(start.astype(dtype))
    for gradient in gradients:
        state.t += 1
        row.equation(spec, constant_lr(spec), state, gradient.astype(dtype))
    assert state.w.dtype == dtype
    return state


def by_torch(row: Row, spec: Optimizer, start: Float32s, gradients: Sequence[Float32s], dtype: type) -> Array:
    """Parameters after every update by torch.optim, fused where torch has that, foreach elsewhere."""
    import torch

    assert row.torch is not None
    name, arguments = row.torch
    parameter = torch.nn.Parameter(torch.from_numpy(start.astype(dtype)))
    way = {"fused": True} if name in ("SGD", "Adam", "AdamW", "Adagrad") else {"foreach": True}
    optimizer = getattr(torch.optim, name)([parameter], lr=constant_lr(spec), **way, **arguments(spec))
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.astype(dtype))
        optimizer.step()
    return np.asarray(parameter.detach().numpy(), np.float64)


def by_optax(row: Row, spec: Optimizer, start: Float32s, gradients: Sequence[Float32s], dtype: type) -> Array:
    """Parameters after every update by optax, compiled."""
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    assert row.optax is not None
    name, arguments = row.optax
    if name.startswith("scale_by"):
        optimizer = optax.chain(getattr(optax, name)(**arguments(spec)), optax.scale(-constant_lr(spec)))
    else:
        optimizer = getattr(optax, name)(constant_lr(spec), **arguments(spec))

    def step(carried, gradient):  # type: ignore[no-untyped-def]
        parameters, state = carried
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), None

    first = jax.numpy.asarray(start.astype(dtype))
    run = jax.jit(lambda carried, stack: jax.lax.scan(step, carried, stack)[0][0])
    result = run((first, optimizer.init(first)), np.stack(gradients).astype(dtype))
    assert result.dtype == dtype
    return np.asarray(result, np.float64)


def by_library(row: Row, spec: Optimizer, start: Float32s, gradients: Sequence[Float32s], dtype: type) -> Array | None:
    """As torch or optax does it; None where neither has the rule or the one that has it is not installed."""
    if row.torch is not None and HAS_TORCH:
        return by_torch(row, spec, start, gradients, dtype)
    if row.optax is not None and HAS_OPTAX:
        return by_optax(row, spec, start, gradients, dtype)
    return None


def rms(error: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(error**2)))
