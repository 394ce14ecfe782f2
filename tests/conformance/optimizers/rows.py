"""The conformance table: every rule and variant with its equation, random hyper-parameters, and peers that have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from optimdpb import specs
from optimdpb.specs import Constant, Optimizer

from tests.conformance.optimizers import equations
from tests.conformance.optimizers.equations import Equation

Rng = np.random.Generator
Arguments = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Tuned:
    """The rule with hyper-parameters that train well, and its peak learning rates on the two test problems."""

    rule: Callable[[Any], Optimizer]
    lr_quadratic: float
    lr_rosenbrock: float


@dataclass(frozen=True)
class Row:
    """draw(rng): a random specification. torch, optax: the peer's name and its arguments beside lr, if it has the rule.

    jumps: why float32 may take another branch than float64, for a rule with signs or thresholds.
    """

    name: str
    equation: Equation
    tuned: Tuned
    draw: Callable[[Rng], Optimizer]
    torch: tuple[str, Arguments] | None = None
    optax: tuple[str, Arguments] | None = None
    jumps: str = ""


def constant_lr(spec: Optimizer) -> float:
    """The learning rate of a drawn specification."""
    assert isinstance(spec.lr, Constant)
    return spec.lr.lr


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """10 to a power between low and high."""
    return float(10.0 ** rng.uniform(low, high))


def _decay(rng: Rng) -> float:
    return float(rng.choice([0.0, log_uniform(rng, -5, -2)]))


def _momentum(rng: Rng) -> float:
    return float(rng.uniform(0.1, 0.99))


def _lr(rng: Rng) -> float:
    return log_uniform(rng, -4, -2)


def _betas(rng: Rng) -> dict[str, float]:
    return {"beta1": rng.uniform(0, 0.99), "beta2": 1 - log_uniform(rng, -4, -0.5), "eps": log_uniform(rng, -10, -2)}


def _draw_sgd(rng: Rng) -> Optimizer:
    return specs.SGD(log_uniform(rng, -4, -1), weight_decay=_decay(rng))


def _draw_heavy_ball(rng: Rng) -> Optimizer:
    dampening = float(rng.choice([0.0, rng.uniform(0, 1)]))
    return specs.SGDM(_lr(rng), momentum=_momentum(rng), dampening=dampening, weight_decay=_decay(rng))


def _draw_nesterov(rng: Rng) -> Optimizer:
    return specs.SGDM(_lr(rng), momentum=_momentum(rng), nesterov=True, weight_decay=_decay(rng))


def _draw_form(form: str) -> Callable[[Rng], Optimizer]:
    return lambda rng: specs.SGDM(_lr(rng), momentum=_momentum(rng), form=form, weight_decay=_decay(rng))


def _draw_rmsprop(rng: Rng) -> Optimizer:
    alpha, momentum = 1 - log_uniform(rng, -3, -0.5), float(rng.choice([0.0, rng.uniform(0, 0.95)]))
    return specs.RMSProp(_lr(rng), alpha, log_uniform(rng, -8, -2), momentum=momentum)


def _draw_centered(rng: Rng) -> Optimizer:
    return specs.RMSProp(_lr(rng), 1 - log_uniform(rng, -3, -1), log_uniform(rng, -6, -3), centered=True)


def _draw_lecture_rmsprop(rng: Rng) -> Optimizer:
    return specs.RMSProp(_lr(rng), 1 - log_uniform(rng, -3, -0.5), 0.0, v_init="first")


def _draw_lecture_adam(rng: Rng) -> Optimizer:
    return specs.Adam(_lr(rng), **{**_betas(rng), "eps": 0.0}, eps_root=log_uniform(rng, -10, -6))


def _draw_adabound(amsbound: bool) -> Callable[[Rng], Optimizer]:
    def draw(rng: Rng) -> Optimizer:
        final_lr, gamma = log_uniform(rng, -3, -1), log_uniform(rng, -4, -2)
        return specs.AdaBound(_lr(rng), **_betas(rng), final_lr=final_lr, gamma=gamma, amsbound=amsbound)

    return draw


def _draw_lion(rng: Rng) -> Optimizer:
    return specs.Lion(_lr(rng), rng.uniform(0.5, 0.99), rng.uniform(0.5, 0.999), weight_decay=_decay(rng))


def _draw_lars(rng: Rng) -> Optimizer:
    momentum, trust = float(rng.uniform(0, 0.95)), log_uniform(rng, -4, -2)
    return specs.LARS(log_uniform(rng, -2, 0), momentum, _decay(rng), trust)


def _fields(*names: str, **renamed: str) -> Arguments:
    pairs = {**{name: name for name in names}, **renamed}
    return lambda spec: {theirs: getattr(spec, ours) for theirs, ours in pairs.items()}


def _torch_betas(*more: str, **fixed: Any) -> Arguments:
    return lambda s: {"betas": (s.beta1, s.beta2), "eps": s.eps, **fixed, **{name: getattr(s, name) for name in more}}


_OPTAX_BETAS = {"b1": "beta1", "b2": "beta2"}
_ADAGRAD = _fields("eps", "weight_decay", initial_accumulator_value="initial_accumulator")
_AMSGRAD = _torch_betas("weight_decay", amsgrad=True)
_LARS = _fields("momentum", "weight_decay", "trust_coefficient")

ROWS = (
    Row("sgd", equations.sgd, Tuned(specs.SGD, 0.1, 0.001), _draw_sgd, torch=("SGD", _fields("weight_decay"))),
    Row(
        "heavy_ball",
        equations.sgdm,
        Tuned(specs.SGDM, 0.01, 0.001),
        _draw_heavy_ball,
        ("SGD", _fields("momentum", "dampening", "weight_decay")),
    ),
    Row(
        "nesterov",
        equations.sgdm,
        Tuned(lambda lr: specs.SGDM(lr, nesterov=True), 0.01, 0.001),
        _draw_nesterov,
        ("SGD", _fields("momentum", "nesterov", "weight_decay")),
    ),
    Row("lecture_momentum", equations.sgdm, Tuned(lambda lr: specs.SGDM(lr, form="ema"), 0.1, 0.01), _draw_form("ema")),
    Row(
        "lr_inside",
        equations.sgdm,
        Tuned(lambda lr: specs.SGDM(lr, form="lr_inside"), 0.01, 0.001),
        _draw_form("lr_inside"),
    ),
    Row(
        "sgdw",
        equations.sgdw,
        Tuned(lambda lr: specs.SGDW(lr, weight_decay=0.0), 0.01, 0.001),
        lambda rng: specs.SGDW(_lr(rng), _momentum(rng), log_uniform(rng, -4, -1)),
    ),
    Row(
        "adagrad",
        equations.adagrad,
        Tuned(specs.Adagrad, 1.0, 1.0),
        lambda rng: specs.Adagrad(
            log_uniform(rng, -3, -1), log_uniform(rng, -10, -1), float(rng.choice([0.0, rng.uniform()])), _decay(rng)
        ),
        torch=("Adagrad", _ADAGRAD),
    ),
    Row(
        "lecture_adagrad",
        equations.adagrad,
        Tuned(lambda lr: specs.Adagrad(lr, eps=0.0), 1.0, 1.0),
        lambda rng: specs.Adagrad(log_uniform(rng, -3, -1), eps=0.0),
    ),
    Row(
        "adadelta",
        equations.adadelta,
        Tuned(specs.Adadelta, 1.0, 1.0),
        lambda rng: specs.Adadelta(log_uniform(rng, -1, 0.5), rng.uniform(0.5, 0.99), log_uniform(rng, -7, -2)),
        torch=("Adadelta", _fields("rho", "eps")),
    ),
    Row(
        "rmsprop",
        equations.rmsprop,
        Tuned(specs.RMSProp, 0.01, 0.01),
        _draw_rmsprop,
        torch=("RMSprop", _fields("alpha", "eps", "momentum")),
    ),
    Row(
        "rmsprop_centered",
        equations.rmsprop,
        Tuned(lambda lr: specs.RMSProp(lr, centered=True), 0.01, 0.01),
        _draw_centered,
        torch=("RMSprop", _fields("alpha", "eps", "centered")),
    ),
    Row(
        "lecture_rmsprop",
        equations.rmsprop,
        Tuned(lambda lr: specs.RMSProp(lr, eps=0.0, v_init="first"), 0.01, 0.01),
        _draw_lecture_rmsprop,
    ),
    Row(
        "adam",
        equations.adam,
        Tuned(specs.Adam, 0.1, 0.1),
        lambda rng: specs.Adam(_lr(rng), **_betas(rng), weight_decay=_decay(rng)),
        torch=("Adam", _torch_betas("weight_decay")),
    ),
    Row(
        "lecture_adam",
        equations.adam,
        Tuned(lambda lr: specs.Adam(lr, eps=0.0, eps_root=1e-8), 0.1, 0.1),
        _draw_lecture_adam,
    ),
    Row(
        "adamw",
        equations.adamw,
        Tuned(lambda lr: specs.AdamW(lr, weight_decay=0.0), 0.1, 0.1),
        lambda rng: specs.AdamW(_lr(rng), **_betas(rng), weight_decay=log_uniform(rng, -4, -1)),
        torch=("AdamW", _torch_betas("weight_decay")),
    ),
    Row(
        "amsgrad",
        equations.amsgrad,
        Tuned(specs.AMSGrad, 0.1, 0.1),
        lambda rng: specs.AMSGrad(_lr(rng), **_betas(rng), weight_decay=_decay(rng)),
        torch=("Adam", _AMSGRAD),
    ),
    Row(
        "lecture_amsgrad",
        equations.amsgrad,
        Tuned(lambda lr: specs.AMSGrad(lr, debias=False), 0.1, 0.1),
        lambda rng: specs.AMSGrad(_lr(rng), **_betas(rng), debias=False),
    ),
    Row(
        "adamax",
        equations.adamax,
        Tuned(specs.Adamax, 0.1, 0.1),
        lambda rng: specs.Adamax(_lr(rng), **_betas(rng)),
        ("Adamax", _torch_betas()),
    ),
    Row(
        "nadam",
        equations.nadam,
        Tuned(specs.NAdam, 0.1, 0.1),
        lambda rng: specs.NAdam(_lr(rng), **_betas(rng), momentum_decay=log_uniform(rng, -3, 0)),
        torch=("NAdam", _torch_betas("momentum_decay")),
    ),
    Row(
        "radam",
        equations.radam,
        Tuned(specs.RAdam, 0.1, 0.1),
        lambda rng: specs.RAdam(_lr(rng), **_betas(rng)),
        ("RAdam", _torch_betas()),
    ),
    Row(
        "yogi",
        equations.yogi,
        Tuned(specs.Yogi, 0.1, 0.1),
        lambda rng: specs.Yogi(_lr(rng), **{**_betas(rng), "eps": log_uniform(rng, -4, -1)}),
        # optax.yogi itself starts m and v at 1e-6.
        optax=("scale_by_yogi", lambda s: {**_fields("eps", **_OPTAX_BETAS)(s), "initial_accumulator_value": 0.0}),
        jumps="the sign of v - g^2",
    ),
    Row(
        "adabound",
        equations.adabound,
        Tuned(lambda lr: specs.AdaBound(lr, final_lr=0.1), 1.0, 0.01),
        _draw_adabound(False),
    ),
    Row(
        "amsbound",
        equations.adabound,
        Tuned(lambda lr: specs.AdaBound(lr, final_lr=0.1, amsbound=True), 1.0, 0.01),
        _draw_adabound(True),
    ),
    Row("swats", equations.swats, Tuned(specs.SWATS, 0.1, 0.1), lambda rng: specs.SWATS(_lr(rng), **_betas(rng))),
    Row(
        "swats_switched",
        equations.swats,
        Tuned(lambda lr: specs.SWATS(lr, switch_tolerance=1e-12), 0.1, 0.1),
        lambda rng: specs.SWATS(_lr(rng), **_betas(rng), switch_tolerance=log_uniform(rng, -5, -3)),
    ),
    Row(
        "lion",
        equations.lion,
        Tuned(specs.Lion, 0.01, 0.01),
        _draw_lion,
        optax=("lion", _fields("weight_decay", **_OPTAX_BETAS)),
        jumps="the sign of the interpolated momentum",
    ),
    Row(
        "lars",
        equations.lars,
        Tuned(lambda lr: specs.LARS(lr, trust_coefficient=0.01), 0.1, 1.0),
        _draw_lars,
        optax=("lars", _LARS),
    ),
    Row(
        "lamb",
        equations.lamb,
        Tuned(lambda lr: specs.LAMB(lr, weight_decay=0.0), 0.1, 0.1),
        lambda rng: specs.LAMB(
            _lr(rng), **{**_betas(rng), "eps": log_uniform(rng, -8, -2)}, weight_decay=log_uniform(rng, -4, -1)
        ),
        optax=("lamb", _fields("eps", "weight_decay", **_OPTAX_BETAS)),
    ),
)
