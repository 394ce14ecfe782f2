"""Learning-rate schedules as values. `optimd_server.schedules` evaluates them.

t is the global step: the update that moves t to t + 1 uses the value at t. A schedule that ends holds its last value.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_integer, check_number

NESTING_MAX = 8


@dataclass(frozen=True)
class Schedule:
    """Base of every schedule."""

    def depth(self) -> int:
        """How many schedules are nested in this one, itself included."""
        return 1

    def peak(self) -> float:
        """The largest value over all steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """lr(t) = lr, lr >= 0."""

    lr: float

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)

    def peak(self) -> float:
        return self.lr


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

    def peak(self) -> float:
        return max(self.lr_start, self.lr_end)


@dataclass(frozen=True)
class Cosine(Schedule):
    """lr(t) = lr_min + (lr_max - lr_min) (1 + cos(pi min(t, steps) / steps)) / 2 (Loshchilov and Hutter 2017)."""

    lr_max: float
    lr_min: float
    steps: int

    def __post_init__(self) -> None:
        check_number(self, "lr_max", 0.0)
        check_number(self, "lr_min", 0.0)
        check_integer(self, "steps", 1)
        if self.lr_max < self.lr_min:
            raise InvalidSpec("lr_max", f"expected at least lr_min = {self.lr_min:g}, got {self.lr_max:g}")

    def peak(self) -> float:
        return self.lr_max


@dataclass(frozen=True)
class Warmup(Schedule):
    """lr(t) = schedule(t) min(1, (t + 1) / steps). The inner schedule sees the same t; a float is a Constant."""

    schedule: Schedule | float
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", as_schedule("schedule", self.schedule))
        check_integer(self, "steps", 1)
        if self.depth() > NESTING_MAX:
            raise InvalidSpec("schedule", f"expected at most {NESTING_MAX} nested schedules, got {self.depth()}")

    def depth(self) -> int:
        return 1 + as_schedule("schedule", self.schedule).depth()

    def peak(self) -> float:
        return as_schedule("schedule", self.schedule).peak()


def as_schedule(field: str, value: Schedule | float) -> Schedule:
    """Turn a plain number into a Constant; raise InvalidSpec for what is neither."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidSpec(field, f"expected a number or a schedule, got {value!r}")
    try:
        return Constant(float(value))
    except InvalidSpec as error:
        raise InvalidSpec(field, error.problem) from None
