"""Settings under the names that torch gives them: taken where they mean the same, else refused with what to do.

A setting whose value is the one of every rule here, such as amsgrad=False, is left out in silence. docs/optimizers.md
has the same table for people.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import shown

_IN_THE_KERNEL = "it chooses among torch's implementations; the server has one, fused. Leave it out"
_BY_STEP = "schedules follow the server's global step. Leave it out"
_NO_DECAY = "this rule has none. Take AdamW, SGDW or another that has, or add weight_decay * parameter to the gradient"
_BETAS = "this rule has none"
_PARAMETERS = "parameters are given to ensure_job()"
_CLIP = "give ensure_job() a clip=, such as ClipGlobalNorm(1.0)"


def _named(name: str) -> str:
    return f"it is called {name} here"


# By name, or by class and name: values that mean what happens here anyway, and why there is no other.
NOT_HERE: dict[str, tuple[tuple[object, ...], str]] = {
    "amsgrad": ((False,), "it is a rule of its own: AMSGrad(...)"),
    "maximize": ((False,), "the server minimizes. Push the gradient with its sign changed"),
    "foreach": ((None, False), _IN_THE_KERNEL),
    "fused": ((None, False), _IN_THE_KERNEL),
    "capturable": ((False,), _IN_THE_KERNEL),
    "differentiable": ((False,), "updates are made on the server, without a graph"),
    "weight_decay": ((0,), _NO_DECAY),
    "decoupled_weight_decay": ((False,), "of the decoupled kind are AdamW, SGDW and LAMB"),
    "betas": ((), _BETAS),
    "params": ((), _PARAMETERS),
    "clipnorm": ((None,), _CLIP),
    "global_clipnorm": ((None,), _CLIP),
    "clipvalue": ((None,), _CLIP),
    "max_norm": ((None,), _CLIP),
    "Adagrad.lr_decay": ((0,), "give lr a schedule, such as InverseSqrt or a Table of lr / (1 + step * lr_decay)"),
    "Adagrad.initial_accumulator_value": ((), _named("initial_accumulator")),
    "SGD.momentum": ((0,), "it is a rule of its own: SGDM(lr, momentum=...)"),
    "SGD.dampening": ((0,), "it belongs to SGDM(lr, momentum=..., dampening=...)"),
    "SGD.nesterov": ((False,), "it belongs to SGDM(lr, momentum=..., nesterov=True)"),
    "last_epoch": ((-1,), _BY_STEP),
    "verbose": ((False, "deprecated"), "optimd status and worker.status() show the rate. Leave it out"),
    "total_iters": ((), _named("steps")),
    "total_steps": ((), _named("steps")),
    "epochs": ((None,), "give steps, which are updates"),
    "steps_per_epoch": ((None,), "give steps, which are updates"),
    "T_max": ((), _named("steps")),
    "T_0": ((), _named("period")),
    "T_mult": ((), _named("period_mult")),
    "eta_min": ((), _named("lr_min")),
    "base_lr": ((), _named("lr_min")),
    "max_lr": ((), _named("lr_max")),
    "min_lr": ((), _named("lr_min")),
    "base_momentum": ((), _named("momentum_min")),
    "max_momentum": ((), _named("momentum_max")),
    "anneal_strategy": (("cos",), "it is a cosine; Sequence joins straight lines"),
    "three_phase": ((False,), "Sequence joins three schedules"),
    "OneCycle.cycle_momentum": ((True,), 'give momentum a schedule of its own: schedules={"momentum": 0.9}'),
    "Cyclical.cycle_momentum": (
        (False,),
        'only lr cycles. Give momentum a schedule of its own: schedules={"momentum": Cyclical(...)}',
    ),
    "Cyclical.step_size_up": ((), _named("step_size")),
    "Cyclical.step_size_down": ((None,), "both halves take step_size steps"),
    "Cyclical.mode": ((), _named("policy")),
    "Cyclical.scale_fn": ((None,), 'there are policy="triangular", "triangular2" and "exp_range"'),
    "Cyclical.scale_mode": (("cycle",), 'there are policy="triangular", "triangular2" and "exp_range"'),
    "Cyclical.base_momentum": ((), "only lr cycles"),
    "Cyclical.max_momentum": ((), "only lr cycles"),
    "Plateau.mode": (("min",), "what falls is better. Push what is to rise with its sign changed, as loss"),
    "Plateau.eps": ((0,), "every reduction is made, however small; lr_min ends them"),
    "Plateau.threshold_mode": (("rel",), "the threshold is a share of the best loss"),
}


# What Keras and optax call them.
NAMES_ELSEWHERE = {
    "learning_rate": "lr",
    "epsilon": "eps",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "b1": "beta1",
    "b2": "beta2",
    "rho": "alpha",
}


def understand(spec_class: type) -> None:
    """Let the class of a specification take settings under the names that people know from torch."""
    original: Callable[..., None] = vars(spec_class)["__init__"]
    names = [field.name for field in dataclasses.fields(spec_class)]
    in_order = [field.name for field in dataclasses.fields(spec_class) if not field.kw_only]
    required = [field.name for field in dataclasses.fields(spec_class) if field.default is dataclasses.MISSING]

    @functools.wraps(original)
    def initialize(self: Any, *args: Any, **settings: Any) -> None:
        if not settings.keys() <= set(names):
            settings = _translated(spec_class.__name__, names, settings)
        if args and in_order[0] == "lr" and isinstance(args[0], list | tuple | Iterator):
            raise InvalidSpec("lr", f"expected a number or a schedule, got {shown(args[0])}: {_PARAMETERS}")
        given = in_order[: len(args)]
        for name in settings:
            if name in given:
                raise InvalidSpec(
                    name, f"expected it once, got {shown(args[given.index(name)])} and {settings[name]!r}"
                )
        for name in required:
            if name not in given and name not in settings:
                raise InvalidSpec(
                    name, f"expected a value for it, got none: {spec_class.__name__}({', '.join(required)})"
                )
        original(self, *args, **settings)

    spec_class.__init__ = initialize  # type: ignore[misc]


def _translated(spec: str, names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings under their names here. Raises InvalidSpec for those that are not here."""
    known = {name: value for name, value in settings.items() if name in names}
    for name, value in settings.items():
        if name in names:
            continue
        if name == "betas" and "beta1" in names:
            known |= _betas(value, settings)
            continue
        if NAMES_ELSEWHERE.get(name) in names:
            raise InvalidSpec(name, f"{spec} has no such setting: {_named(NAMES_ELSEWHERE[name])}; got {shown(value)}")
        neutral, why = NOT_HERE.get(f"{spec}.{name}") or NOT_HERE.get(name) or ((), "")
        if any(value is each or (type(value) in (bool, int, float, str) and value == each) for each in neutral):
            continue
        listed = f"it has {', '.join(names)}"
        raise InvalidSpec(name, f"{spec} has no such setting: {why or listed}; got {shown(value)}")
    return known


def _betas(value: Any, settings: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InvalidSpec("betas", f"expected (beta1, beta2), got {shown(value)}")
    twice = {"beta1", "beta2"} & settings.keys()
    if twice:
        raise InvalidSpec("betas", f"expected betas or {min(twice)}, got both")
    return dict(zip(("beta1", "beta2"), value, strict=True))
