"""The rules that the demo can train with, each with a peak learning rate that suits the digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from optimdpb import specs
from optimdpb.specs import Cosine, Optimizer, Schedule, Warmup

# By name: the rule, and its peak learning rate.
RULES: dict[str, tuple[Callable[[Schedule], Optimizer], float]] = {
    "sgd": (specs.SGD, 0.5),
    "sgdm": (specs.SGDM, 0.1),
    "nesterov": (partial(specs.SGDM, nesterov=True), 0.1),
    "sgdw": (specs.SGDW, 0.1),
    "adagrad": (specs.Adagrad, 0.03),
    "rmsprop": (specs.RMSProp, 3e-3),
    "adadelta": (specs.Adadelta, 3.0),
    "adam": (specs.Adam, 3e-3),
    "adamw": (specs.AdamW, 3e-3),
    "amsgrad": (specs.AMSGrad, 3e-3),
    "adamax": (specs.Adamax, 0.01),
    "nadam": (specs.NAdam, 3e-3),
    "radam": (specs.RAdam, 0.01),
    "yogi": (specs.Yogi, 0.01),
    "adabound": (specs.AdaBound, 3e-3),
    # The paper's tolerance is for runs of many thousand steps.
    "swats": (partial(specs.SWATS, switch_tolerance=1e-3), 3e-3),
    "lion": (specs.Lion, 1e-3),
    "lars": (specs.LARS, 5.0),
    "lamb": (specs.LAMB, 0.01),
}


def optimizer_of(name: str, steps: int) -> Optimizer:
    """The rule under a warm-up over a twentieth of the steps and half a cosine."""
    rule, peak = RULES[name]
    return rule(Warmup(Cosine(lr_max=peak, lr_min=peak / 100, steps=steps), steps=max(1, steps // 20)))
