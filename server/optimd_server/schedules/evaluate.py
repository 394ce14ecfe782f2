"""The value of a schedule at a global step. Any step, in any order; the same answer each time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from optimdpb.errors import NotServed
from optimdpb.specs import Constant, Cosine, Linear, Schedule, Warmup
from optimdpb.specs.schedules import as_schedule


def value_at(schedule: Schedule | float, step: int) -> float:
    """The float64 value that the update from `step` to `step + 1` uses, step >= 0. Raises NotServed."""
    spec = as_schedule("schedule", schedule)
    evaluate = _EVALUATORS.get(type(spec))
    if evaluate is None:
        raise NotServed(f"schedule {type(spec).__name__}")
    return evaluate(spec, step)


def _constant(spec: Constant, step: int) -> float:
    return spec.lr


def _linear(spec: Linear, step: int) -> float:
    if step >= spec.steps:
        return spec.lr_end
    return spec.lr_start + (spec.lr_end - spec.lr_start) * (step / spec.steps)


def _cosine(spec: Cosine, step: int) -> float:
    if step >= spec.steps:
        return spec.lr_min
    return spec.lr_min + (spec.lr_max - spec.lr_min) * (0.5 * (1.0 + math.cos(math.pi * (step / spec.steps))))


def _warmup(spec: Warmup, step: int) -> float:
    value = value_at(spec.schedule, step)
    return value if step + 1 >= spec.steps else value * ((step + 1) / spec.steps)


_EVALUATORS: dict[type[Schedule], Callable[[Any, int], float]] = {
    Constant: _constant,
    Linear: _linear,
    Cosine: _cosine,
    Warmup: _warmup,
}
