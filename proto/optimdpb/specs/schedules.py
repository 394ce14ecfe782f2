"""Schedules as values: a number for each global step. `optimd_server.schedules` evaluates them.

t is the global step: the update that moves t to t + 1 uses the value at t. A schedule that ends holds its last value.
Most are learning rates, and their fields say so; any of them can drive another hyper-parameter. Every value is finite
and at least 0, for every t up to 2^53: so factors are at most 1 where there is no last one. specs.cycles has those that
rise and fall, specs.compound those that are made of others.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import STEPS_MAX, as_float, check_integer, check_number, check_positive, shown

NESTING_MAX = 8
ENTRIES_MAX = 10_000


@dataclass(frozen=True)
class Schedule:
    """Base of every schedule."""

    def inner(self) -> tuple[Schedule, ...]:
        """The schedules that this one is made of."""
        return ()

    def bounds(self) -> tuple[float, float]:
        """Two values that all values over all steps lie between."""
        raise NotImplementedError

    @functools.cached_property
    def limits(self) -> tuple[float, float]:
        """bounds(), worked out once: a rule is checked again for each of its groups."""
        return self.bounds()

    @functools.cached_property
    def nested(self) -> tuple[Schedule, ...]:
        """All that are nested in this one, however deep."""
        return tuple(found for part in self.inner() for found in (part, *part.nested))

    def depth(self) -> int:
        """How many schedules are nested in this one, itself included."""
        return 1 + max((part.depth() for part in self.inner()), default=0)

    def entries(self) -> int:
        """Entries of all lists in it, those of nested schedules included."""
        return sum(part.entries() for part in self.inner())

    def peak(self) -> float:
        """The largest value."""
        return self.bounds()[1]


@dataclass(frozen=True)
class Constant(Schedule):
    """lr(t) = lr, lr >= 0."""

    lr: float

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)

    def bounds(self) -> tuple[float, float]:
        return self.lr, self.lr


@dataclass(frozen=True)
class Linear(Schedule):
    """lr(t) = lr_start + (lr_end - lr_start) min(t, steps) / steps."""

    lr_start: float
    lr_end: float
    steps: int

    def __post_init__(self) -> None:
        check_number(self, "lr_start", 0.0)
        check_number(self, "lr_end", 0.0)
        check_integer(self, "steps", 1)

    def bounds(self) -> tuple[float, float]:
        return min(self.lr_start, self.lr_end), max(self.lr_start, self.lr_end)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """lr(t) = lr_end + (lr_start - lr_end) (1 - min(t, steps) / steps)^power, power > 0."""

    lr_start: float
    lr_end: float
    steps: int
    power: float

    def __post_init__(self) -> None:
        check_number(self, "lr_start", 0.0)
        check_number(self, "lr_end", 0.0)
        check_integer(self, "steps", 1)
        check_positive(self, "power")

    def bounds(self) -> tuple[float, float]:
        return min(self.lr_start, self.lr_end), max(self.lr_start, self.lr_end)


@dataclass(frozen=True)
class Step(Schedule):
    """lr(t) = lr gamma^floor(t / step_size), 0 < gamma <= 1."""

    lr: float
    step_size: int
    gamma: float

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)
        check_integer(self, "step_size", 1)
        check_factor(self, "gamma")

    def bounds(self) -> tuple[float, float]:
        return (self.lr if self.gamma == 1.0 else 0.0), self.lr


@dataclass(frozen=True)
class MultiStep(Schedule):
    """lr(t) = lr gamma^n, n the number of milestones <= t; gamma > 0. Milestones rise strictly, the first is >= 0."""

    lr: float
    milestones: Sequence[int]
    gamma: float

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)
        object.__setattr__(self, "milestones", entries_of(self, "milestones", "a list of steps"))
        check_rising("milestones", self.milestones)
        check_positive(self, "gamma")
        try:
            finite = math.isfinite(self.bounds()[1])
        except OverflowError:
            finite = False
        if not finite:
            raise InvalidSpec("gamma", f"expected a last value that is finite, got lr gamma^n with {self.gamma:g}")

    def entries(self) -> int:
        return len(self.milestones)

    def bounds(self) -> tuple[float, float]:
        last = self.lr * self.gamma ** len(self.milestones)
        return min(self.lr, last), max(self.lr, last)


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr(t) = lr gamma^t, 0 < gamma <= 1."""

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)
        check_factor(self, "gamma")

    def bounds(self) -> tuple[float, float]:
        return (self.lr if self.gamma == 1.0 else 0.0), self.lr


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """lr(t) = lr min((t + 1) / warmup_steps, sqrt(warmup_steps / (t + 1))) (Vaswani et al. 2017, lr at its peak)."""

    lr: float
    warmup_steps: int

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)
        check_integer(self, "warmup_steps", 1)

    def bounds(self) -> tuple[float, float]:
        return 0.0, self.lr


@dataclass(frozen=True)
class Cosine(Schedule):
    """lr(t) = lr_min + (lr_max - lr_min) (1 + cos(pi min(t, steps) / steps)) / 2 (Loshchilov and Hutter 2017)."""

    lr_max: float
    lr_min: float
    steps: int

    def __post_init__(self) -> None:
        check_range(self)
        check_integer(self, "steps", 1)

    def bounds(self) -> tuple[float, float]:
        return self.lr_min, self.lr_max


def as_schedule(field: str, value: Schedule | float) -> Schedule:
    """Turn a plain number into a Constant; raise InvalidSpec for what is neither."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        advice = ": pass float(it)" if hasattr(value, "__float__") and not isinstance(value, bool) else ""
        raise InvalidSpec(field, f"expected a number or a schedule, got {shown(value)}{advice}")
    try:
        return Constant(as_float(field, value))
    except InvalidSpec as error:
        raise InvalidSpec(field, error.problem) from None


def check_range(spec: Any) -> None:
    """Require 0 <= lr_min <= lr_max."""
    check_number(spec, "lr_max", 0.0)
    check_number(spec, "lr_min", 0.0)
    if spec.lr_max < spec.lr_min:
        raise InvalidSpec("lr_max", f"expected at least lr_min = {spec.lr_min:g}, got {spec.lr_max:g}")


def check_factor(spec: Any, name: str) -> None:
    """Require 0 < factor <= 1: with more the values would not stay finite."""
    check_number(spec, name, 0.0, 1.0)
    if getattr(spec, name) == 0.0:
        raise InvalidSpec(name, "expected a number above 0, at most 1, got 0")


def check_rising(path: str, steps: Iterable[Any]) -> None:
    """Require integers from 0 to 2^53, each above the last."""
    last = -1
    for place, step in enumerate(steps):
        if isinstance(step, bool) or not isinstance(step, numbers.Integral):
            raise InvalidSpec(f"{path}[{place}]", f"expected an integer step, got {shown(step)}")
        if not last < int(step) <= STEPS_MAX:
            least = f"above the one before it, {last}," if place else "at least 0"
            raise InvalidSpec(f"{path}[{place}]", f"expected a step {least} and at most 2^53, got {shown(step)}")
        last = int(step)


def entries_of(spec: Any, name: str, expected: str) -> tuple[Any, ...]:
    """The field as a tuple, each list in it too; 1 to ENTRIES_MAX entries. Numbers of numpy become Python's."""
    given = getattr(spec, name)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidSpec(name, f"expected {expected}, got {shown(given)}")
    found = tuple(_plain(name, entry) for entry in given)
    if not 1 <= len(found) <= ENTRIES_MAX:
        raise InvalidSpec(name, f"expected {expected} with 1 to {ENTRIES_MAX} entries, got {len(found)}")
    return found


def _plain(name: str, entry: Any) -> Any:
    if isinstance(entry, list | tuple):
        return tuple(_plain(name, value) for value in entry)
    if isinstance(entry, numbers.Integral) and not isinstance(entry, bool):
        return int(entry)
    return as_float(name, entry) if isinstance(entry, numbers.Real) and not isinstance(entry, bool) else entry
