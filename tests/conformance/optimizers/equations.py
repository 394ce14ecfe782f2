"""Every rule's equation in plain numpy, written from its paper or from torch's documentation, not from our kernels.

Generic in dtype: in float64 they are the reference, in float32 a peer that shows what rounding alone costs. One tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimdpb import specs

Array = NDArray[Any]


@dataclass
class State:
    """What a rule has between updates: `w` and its vectors by name; `t` counts updates, this one included."""

    w: Array
    vectors: dict[str, Array] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    t: int = 0

    def vector(self, name: str) -> Array:
        """A vector by name, zero at first."""
        return self.vectors.setdefault(name, np.zeros_like(self.w))

    def c(self, value: float) -> Any:
        """A constant in the dtype of the vectors."""
        return self.w.dtype.type(value)

    def mean(self, name: str, beta: float, value: Array) -> Array:
        """x = beta x + (1 - beta) value, kept."""
        self.vectors[name] = self.c(beta) * self.vector(name) + self.c(1 - beta) * value
        return self.vectors[name]

    def largest(self, name: str, value: Array) -> Array:
        """x = max(x, value), kept."""
        self.vectors[name] = np.maximum(self.vector(name), value)
        return self.vectors[name]


# equation(spec, lr, state, g): one update of state.
Equation = Callable[[Any, float, State, Array], None]


def sgd(spec: specs.SGD, lr: float, s: State, g: Array) -> None:
    """w = w - lr (g + lambda w)."""
    s.w = s.w - s.c(lr) * (g + s.c(spec.weight_decay) * s.w)


def sgdm(spec: specs.SGDM, lr: float, s: State, g: Array) -> None:
    """heavy_ball: m = mu m + (1 - tau) g, the first m is g; w = w - lr m, or with Nesterov w - lr (g + mu m).

    ema: m = mu m + (1 - mu) g; w = w - lr m. lr_inside: m = mu m + lr g; w = w - m.
    """
    g = g + s.c(spec.weight_decay) * s.w
    share = {"ema": 1 - spec.momentum, "lr_inside": lr, "heavy_ball": 1 - spec.dampening}[spec.form]
    m = s.c(spec.momentum) * s.vector("m") + s.c(share) * g
    if spec.form == "heavy_ball" and s.t == 1:
        m = g
    s.vectors["m"] = m
    move = m if spec.form == "lr_inside" else s.c(lr) * (g + s.c(spec.momentum) * m if spec.nesterov else m)
    s.w = s.w - move


def sgdw(spec: specs.SGDW, lr: float, s: State, g: Array) -> None:
    """m = mu m + g; w = w - lr m - lr lambda w."""
    s.vectors["m"] = s.c(spec.momentum) * s.vector("m") + g
    s.w = s.w - s.c(lr) * s.vectors["m"] - s.c(lr * spec.weight_decay) * s.w


def adagrad(spec: specs.Adagrad, lr: float, s: State, g: Array) -> None:
    """a = a + g^2; w = w - lr g / (sqrt(a) + eps)."""
    g = g + s.c(spec.weight_decay) * s.w
    first = np.full_like(s.w, spec.initial_accumulator)
    s.vectors["a"] = s.vectors.get("a", first) + g * g
    s.w = s.w - s.c(lr) * _divide(g, np.sqrt(s.vectors["a"]) + s.c(spec.eps))


def adadelta(spec: specs.Adadelta, lr: float, s: State, g: Array) -> None:
    """v = rho v + (1 - rho) g^2; d = sqrt(u + eps) / sqrt(v + eps) g; u = rho u + (1 - rho) d^2; w = w - lr d."""
    v = s.mean("v", spec.rho, g * g)
    d = np.sqrt(s.vector("u") + s.c(spec.eps)) / np.sqrt(v + s.c(spec.eps)) * g
    s.mean("u", spec.rho, d * d)
    s.w = s.w - s.c(lr) * d


def rmsprop(spec: specs.RMSProp, lr: float, s: State, g: Array) -> None:
    """v = alpha v + (1 - alpha) g^2, less the squared mean of g if centered; w = w - lr g / (sqrt(v) + eps)."""
    if spec.v_init == "first" and s.t == 1:
        s.vectors["v"] = g * g
        v = s.vectors["v"]
    else:
        v = s.mean("v", spec.alpha, g * g)
    if spec.centered:
        a = s.mean("a", spec.alpha, g)
        v = np.maximum(v - a * a, s.c(0))
    d = _divide(g, np.sqrt(v) + s.c(spec.eps))
    if spec.momentum:
        s.vectors["b"] = d = s.c(spec.momentum) * s.vector("b") + d
    s.w = s.w - s.c(lr) * d


def adam(spec: specs.Adam, lr: float, s: State, g: Array) -> None:
    """Algorithm 1 of the paper, with an eps inside the root beside the one outside."""
    _adam_step(spec, lr, s, g + s.c(spec.weight_decay) * s.w, spec.eps_root)


def adamw(spec: specs.AdamW, lr: float, s: State, g: Array) -> None:
    """w = w - lr lambda w, then Adam."""
    s.w = s.w - s.c(lr * spec.weight_decay) * s.w
    _adam_step(spec, lr, s, g, spec.eps_root)


def _moments(spec: Any, s: State, g: Array) -> tuple[Array, Array]:
    return s.mean("m", spec.beta1, g), s.mean("v", spec.beta2, g * g)


def _adam_step(spec: Any, lr: float, s: State, g: Array, eps_root: float) -> None:
    m, v = _moments(spec, s, g)
    m_hat, v_hat = m / s.c(1 - spec.beta1**s.t), v / s.c(1 - spec.beta2**s.t)
    s.w = s.w - s.c(lr) * m_hat / (np.sqrt(v_hat + s.c(eps_root)) + s.c(spec.eps))


def amsgrad(spec: specs.AMSGrad, lr: float, s: State, g: Array) -> None:
    """Algorithm 2 of the paper; with debias as torch: the maximum is of the v that is not corrected."""
    m, v = _moments(spec, s, g + s.c(spec.weight_decay) * s.w)
    u = s.largest("u", v)
    if spec.debias:
        m, u = m / s.c(1 - spec.beta1**s.t), u / s.c(1 - spec.beta2**s.t)
    s.w = s.w - s.c(lr) * m / (np.sqrt(u + s.c(spec.eps_root)) + s.c(spec.eps))


def adamax(spec: specs.Adamax, lr: float, s: State, g: Array) -> None:
    """Algorithm 2 of Adam's paper, eps added as torch does."""
    m = s.mean("m", spec.beta1, g)
    s.vectors["u"] = np.maximum(s.c(spec.beta2) * s.vector("u"), np.abs(g) + s.c(spec.eps))
    s.w = s.w - s.c(lr / (1 - spec.beta1**s.t)) * m / s.vectors["u"]


def nadam(spec: specs.NAdam, lr: float, s: State, g: Array) -> None:
    """The algorithm in torch's documentation."""
    m, v = _moments(spec, s, g)
    mu, mu_next = (spec.beta1 * (1 - 0.5 * 0.96 ** (t * spec.momentum_decay)) for t in (s.t, s.t + 1))
    product = s.numbers["product"] = s.numbers.get("product", 1.0) * mu
    m_hat = s.c(mu_next / (1 - product * mu_next)) * m + s.c((1 - mu) / (1 - product)) * g
    s.w = s.w - s.c(lr) * m_hat / (np.sqrt(v / s.c(1 - spec.beta2**s.t)) + s.c(spec.eps))


def radam(spec: specs.RAdam, lr: float, s: State, g: Array) -> None:
    """The algorithm in torch's documentation, which has rectification from rho above 5 on."""
    m, v = _moments(spec, s, g)
    m_hat = m / s.c(1 - spec.beta1**s.t)
    rho_max = 2 / (1 - spec.beta2) - 1
    rho = rho_max - 2 * s.t * spec.beta2**s.t / (1 - spec.beta2**s.t)
    if rho > 5:
        r = np.sqrt((rho - 4) * (rho - 2) * rho_max / ((rho_max - 4) * (rho_max - 2) * rho))
        m_hat = m_hat * s.c(r * np.sqrt(1 - spec.beta2**s.t)) / (np.sqrt(v) + s.c(spec.eps))
    s.w = s.w - s.c(lr) * m_hat


def yogi(spec: specs.Yogi, lr: float, s: State, g: Array) -> None:
    """v = v - (1 - b2) sign(v - g^2) g^2; then Adam's step, bias-corrected."""
    m = s.mean("m", spec.beta1, g)
    v = s.vector("v")
    s.vectors["v"] = v = v - s.c(1 - spec.beta2) * np.sign(v - g * g) * g * g
    m_hat, v_hat = m / s.c(1 - spec.beta1**s.t), v / s.c(1 - spec.beta2**s.t)
    s.w = s.w - s.c(lr) * m_hat / (np.sqrt(v_hat) + s.c(spec.eps))


def adabound(spec: specs.AdaBound, lr: float, s: State, g: Array) -> None:
    """The authors' code: Adam's rate of each element is kept between bounds that close in on final_lr."""
    m, v = _moments(spec, s, g)
    if spec.amsbound:
        v = s.largest("u", v)
    rate = s.c(lr * np.sqrt(1 - spec.beta2**s.t) / (1 - spec.beta1**s.t)) / (np.sqrt(v) + s.c(spec.eps))
    lower = spec.final_lr * (1 - 1 / (spec.gamma * s.t + 1))
    upper = spec.final_lr * (1 + 1 / (spec.gamma * s.t))
    s.w = s.w - np.clip(rate, s.c(lower), s.c(upper)) * m


def swats(spec: specs.SWATS, lr: float, s: State, g: Array) -> None:
    """Algorithm 1 of the paper, for a constant lr."""
    if "rate" in s.numbers:
        s.vectors["b"] = s.c(spec.beta1) * s.vector("b") + g
        s.w = s.w - s.c((1 - spec.beta1) * s.numbers["rate"]) * s.vectors["b"]
        return
    m, v = _moments(spec, s, g)
    rate = lr * np.sqrt(1 - spec.beta2**s.t) / (1 - spec.beta1**s.t)
    p = s.c(-rate) * m / (np.sqrt(v) + s.c(spec.eps))
    s.w = s.w + p
    p_g = float(np.dot(p.astype(np.float64), g.astype(np.float64)))
    if p_g == 0:
        return
    gamma = float(np.dot(p.astype(np.float64), p.astype(np.float64))) / -p_g
    mean = s.numbers["mean"] = spec.beta2 * s.numbers.get("mean", 0.0) + (1 - spec.beta2) * gamma
    unbiased = mean / (1 - spec.beta2**s.t)
    if s.t > 1 and unbiased > 0 and abs(unbiased - gamma) < spec.switch_tolerance:
        s.numbers["rate"], s.numbers["switch"] = unbiased, s.t


def lion(spec: specs.Lion, lr: float, s: State, g: Array) -> None:
    """Algorithm 2 of the paper."""
    m = s.vector("m")
    direction = np.sign(s.c(spec.beta1) * m + s.c(1 - spec.beta1) * g)
    s.w = s.w - s.c(lr) * (direction + s.c(spec.weight_decay) * s.w)
    s.mean("m", spec.beta2, g)


def lars(spec: specs.LARS, lr: float, s: State, g: Array) -> None:
    """optax's form: the norm is of g with its decay."""
    u = g + s.c(spec.weight_decay) * s.w
    r = s.c(spec.trust_coefficient) * _ratio(s.w, u, s.c(1 / spec.trust_coefficient))
    s.vectors["m"] = s.c(spec.momentum) * s.vector("m") + s.c(lr) * r * u
    s.w = s.w - s.vectors["m"]


def lamb(spec: specs.LAMB, lr: float, s: State, g: Array) -> None:
    """Algorithm 2 of the paper with phi the identity."""
    m, v = _moments(spec, s, g)
    m_hat, v_hat = m / s.c(1 - spec.beta1**s.t), v / s.c(1 - spec.beta2**s.t)
    u = m_hat / (np.sqrt(v_hat) + s.c(spec.eps)) + s.c(spec.weight_decay) * s.w
    s.w = s.w - s.c(lr) * _ratio(s.w, u, s.c(1)) * u


def _ratio(w: Array, u: Array, otherwise: Any) -> Any:
    top, bottom = np.linalg.norm(w), np.linalg.norm(u)
    return top / bottom if top and bottom else otherwise


def _divide(top: Array, bottom: Array) -> Array:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)
