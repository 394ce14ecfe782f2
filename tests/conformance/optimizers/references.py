"""Every rule as one row: random hyper-parameters, the paper's equation in plain numpy, torch's optimizer if it has one.

The equations are generic in dtype: in float64 they are the reference, in float32 a peer of the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimdpb.specs import SGD, SGDM, Adam, Constant, Optimizer

Array = NDArray[Any]


@dataclass
class State:
    """What a rule has between updates: `w` and its vectors by name; `k` counts updates."""

    w: Array
    vectors: dict[str, Array] = field(default_factory=dict)
    k: int = 0

    def vector(self, name: str) -> Array:
        """A vector by name, zero at first."""
        return self.vectors.setdefault(name, np.zeros_like(self.w))


# equation(spec, lr, state, g): one update of state.
Equation = Callable[[Any, float, State, Array], None]


def sgd(spec: SGD, lr: float, state: State, g: Array) -> None:
    """w = w - lr (g + lambda w)."""
    state.w = state.w - _same(state.w, lr) * (g + _same(state.w, spec.weight_decay) * state.w)


def heavy_ball(spec: SGDM, lr: float, state: State, g: Array) -> None:
    """m = mu m + (1 - tau) g, the first m is g; w = w - lr m, or with Nesterov's look-ahead w - lr (g + mu m)."""
    c = lambda value: _same(state.w, value)  # noqa: E731
    g = g + c(spec.weight_decay) * state.w
    m = g if state.k == 0 else c(spec.momentum) * state.vector("m") + c(1 - spec.dampening) * g
    state.vectors["m"] = m
    state.w = state.w - c(lr) * (g + c(spec.momentum) * m if spec.nesterov else m)


def lecture_momentum(spec: SGDM, lr: float, state: State, g: Array) -> None:
    """m = b1 m + (1 - b1) g; w = w - lr m."""
    c = lambda value: _same(state.w, value)  # noqa: E731
    g = g + c(spec.weight_decay) * state.w
    state.vectors["m"] = c(spec.momentum) * state.vector("m") + c(1 - spec.momentum) * g
    state.w = state.w - c(lr) * state.vectors["m"]


def adam(spec: Adam, lr: float, state: State, g: Array) -> None:
    """Algorithm 1 of the paper, with an eps inside the root beside the one outside."""
    c = lambda value: _same(state.w, value)  # noqa: E731
    t = state.k + 1
    g = g + c(spec.weight_decay) * state.w
    m = state.vectors["m"] = c(spec.beta1) * state.vector("m") + c(1 - spec.beta1) * g
    v = state.vectors["v"] = c(spec.beta2) * state.vector("v") + c(1 - spec.beta2) * g * g
    m_hat, v_hat = m / c(1 - spec.beta1**t), v / c(1 - spec.beta2**t)
    state.w = state.w - c(lr) * m_hat / (np.sqrt(v_hat + c(spec.eps_root)) + c(spec.eps))


def _same(like: Array, value: float) -> Any:
    return like.dtype.type(value)


@dataclass(frozen=True)
class Row:
    """draw(rng): a random specification. torch_name, torch_arguments(spec): the peer in torch.optim, if any."""

    name: str
    equation: Equation
    draw: Callable[[np.random.Generator], Optimizer]
    torch_name: str = ""
    torch_arguments: Callable[[Any], dict[str, Any]] = lambda spec: {}


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """10 to a power between low and high."""
    return float(10.0 ** rng.uniform(low, high))


def _decay(rng: np.random.Generator) -> float:
    return float(rng.choice([0.0, log_uniform(rng, -5, -2)]))


def draw_sgd(rng: np.random.Generator) -> SGD:
    """Any SGD."""
    return SGD(log_uniform(rng, -4, -1), weight_decay=_decay(rng))


def draw_heavy_ball(rng: np.random.Generator) -> SGDM:
    """Heavy ball, dampened in half of the draws."""
    dampening = float(rng.choice([0.0, rng.uniform(0, 1)]))
    momentum = rng.uniform(0, 0.99)
    return SGDM(log_uniform(rng, -4, -1.5), momentum=momentum, dampening=dampening, weight_decay=_decay(rng))


def draw_nesterov(rng: np.random.Generator) -> SGDM:
    """Nesterov's form."""
    return SGDM(log_uniform(rng, -4, -1.5), momentum=rng.uniform(0.1, 0.99), nesterov=True, weight_decay=_decay(rng))


def draw_lecture_momentum(rng: np.random.Generator) -> SGDM:
    """The lecture's form."""
    return SGDM(log_uniform(rng, -4, -1), momentum=rng.uniform(0, 0.99), form="ema", weight_decay=_decay(rng))


def draw_adam(rng: np.random.Generator) -> Adam:
    """eps outside the root, as torch has it."""
    return Adam(
        log_uniform(rng, -4, -2),
        beta1=rng.uniform(0, 0.99),
        beta2=1 - log_uniform(rng, -4, -0.5),
        eps=log_uniform(rng, -10, -4),
        weight_decay=_decay(rng),
    )


def draw_lecture_adam(rng: np.random.Generator) -> Adam:
    """eps inside the root, as the lecture has it."""
    beta1, beta2 = rng.uniform(0, 0.99), 1 - log_uniform(rng, -4, -0.5)
    return Adam(log_uniform(rng, -4, -2), beta1=beta1, beta2=beta2, eps=0.0, eps_root=log_uniform(rng, -10, -6))


def _fields(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda spec: {name: getattr(spec, name) for name in names}


ROWS = (
    Row("sgd", sgd, draw_sgd, "SGD", _fields("weight_decay")),
    Row("heavy_ball", heavy_ball, draw_heavy_ball, "SGD", _fields("momentum", "dampening", "weight_decay")),
    Row("nesterov", heavy_ball, draw_nesterov, "SGD", _fields("momentum", "nesterov", "weight_decay")),
    Row("lecture_momentum", lecture_momentum, draw_lecture_momentum),
    Row(
        "adam",
        adam,
        draw_adam,
        "Adam",
        lambda spec: {"betas": (spec.beta1, spec.beta2), "eps": spec.eps, "weight_decay": spec.weight_decay},
    ),
    Row("lecture_adam", adam, draw_lecture_adam),
)


def constant_lr(spec: Optimizer) -> float:
    """The learning rate of a drawn specification."""
    assert isinstance(spec.lr, Constant)
    return spec.lr.lr
