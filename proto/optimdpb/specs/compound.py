"""Schedules that are made of others or of a list of points, and the one that follows the loss, as values."""

from __future__ import annotations

import functools
import itertools
from collections import abc
from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import STEPS_MAX, check_choice, check_integer, check_number, shown
from optimdpb.specs.cycles import OneCycle
from optimdpb.specs.schedules import ENTRIES_MAX, NESTING_MAX, Schedule, as_schedule, check_rising, entries_of


@dataclass(frozen=True)
class Warmup(Schedule):
    """lr(t) = schedule(t) min(1, (t + 1) / steps). The inner schedule sees the same t; a float is a Constant."""

    schedule: Schedule | float
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", as_schedule("schedule", self.schedule))
        check_integer(self, "steps", 1)
        _check_nesting(self, "schedule")

    def inner(self) -> tuple[Schedule, ...]:
        return (as_schedule("schedule", self.schedule),)

    def bounds(self) -> tuple[float, float]:
        low, high = self.inner()[0].bounds()
        return low / self.steps, high


@dataclass(frozen=True)
class Sequence(Schedule):
    """Schedules one after another: (steps, schedule) each. Each sees t counted from its own start; the last goes on."""

    parts: abc.Sequence[tuple[int, Schedule | float]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self._part(place, entry) for place, entry in self._given()))
        if self.starts[-1] > STEPS_MAX:
            raise InvalidSpec("parts", f"expected at most 2^53 steps together, got {shown(self.starts[-1])}")
        _check_nesting(self, "parts")

    def _given(self) -> enumerate[object]:
        return enumerate(entries_of(self, "parts", "a list of (steps, schedule)"))

    def _part(self, place: int, entry: object) -> tuple[int, Schedule]:
        path = f"parts[{place}]"
        if not isinstance(entry, tuple) or len(entry) != 2:
            raise InvalidSpec(path, f"expected (steps, schedule), got {shown(entry)}")
        steps, schedule = entry
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= STEPS_MAX:
            raise InvalidSpec(f"{path}.steps", f"expected an integer from 1 to {STEPS_MAX}, got {shown(steps)}")
        return steps, as_schedule(f"{path}.schedule", schedule)

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """The step at which each part begins, and at which the last one would end."""
        return (0, *itertools.accumulate(steps for steps, _ in self.parts))

    @functools.cached_property
    def _schedules(self) -> tuple[Schedule, ...]:
        return tuple(as_schedule("parts", schedule) for _, schedule in self.parts)

    def inner(self) -> tuple[Schedule, ...]:
        return self._schedules

    def entries(self) -> int:
        return len(self.parts) + super().entries()

    def bounds(self) -> tuple[float, float]:
        lows, highs = zip(*(part.bounds() for part in self.inner()), strict=True)
        return min(lows), max(highs)


@dataclass(frozen=True)
class Table(Schedule):
    """Points (step, value) with steps that rise strictly.

    Between two points interpolation="linear" draws a straight line, "constant" holds the earlier value. Before the
    first point its value holds, behind the last point that one's.
    """

    points: abc.Sequence[tuple[int, float]]
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        points = entries_of(self, "points", "a list of (step, value)")
        for place, point in enumerate(points):
            if not isinstance(point, tuple) or len(point) != 2:
                raise InvalidSpec(f"points[{place}]", f"expected (step, value), got {shown(point)}")
        check_rising("points", (step for step, _ in points))
        values = tuple(as_schedule(f"points[{place}].value", value) for place, (_, value) in enumerate(points))
        if any(value.depth() != 1 or value.bounds()[0] != value.bounds()[1] for value in values):
            raise InvalidSpec("points", "expected numbers as values, got a schedule")
        pairs = tuple((step, value.peak()) for (step, _), value in zip(points, values, strict=True))
        object.__setattr__(self, "points", pairs)
        check_choice(self, "interpolation", ("linear", "constant"))

    def entries(self) -> int:
        return len(self.points)

    def bounds(self) -> tuple[float, float]:
        values = [value for _, value in self.points]
        return min(values), max(values)


@dataclass(frozen=True)
class Plateau(Schedule):
    """The rate falls when the round's loss has stopped falling; as torch.optim.lr_scheduler.ReduceLROnPlateau.

    A round whose loss is below best - threshold |best| is an improvement. After more than `patience` rounds without one
    lr = max(lr_min, factor lr), and for `cooldown` rounds none is counted. Rounds without a loss are not counted. It is
    the one schedule with state: part of the job's state, saved and restored with it. A job has at most one, in its lr.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    lr_min: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)
        check_number(self, "factor", 0.0, 1.0, below_high=True)
        check_integer(self, "patience", 0)
        check_number(self, "threshold", 0.0)
        check_integer(self, "cooldown", 0)
        check_number(self, "lr_min", 0.0)
        if self.lr < self.lr_min:
            raise InvalidSpec("lr_min", f"expected at most lr = {self.lr:g}, got {self.lr_min:g}")

    def bounds(self) -> tuple[float, float]:
        return self.lr_min, self.lr


def plateaus(schedule: Schedule) -> tuple[Plateau, ...]:
    """Every Plateau in a schedule."""
    return tuple(found for found in (schedule, *schedule.nested) if isinstance(found, Plateau))


def one_cycles(schedule: Schedule) -> tuple[OneCycle, ...]:
    """Every OneCycle in a schedule."""
    return tuple(found for found in (schedule, *schedule.nested) if isinstance(found, OneCycle))


def _check_nesting(spec: Schedule, name: str) -> None:
    if spec.depth() > NESTING_MAX:
        raise InvalidSpec(name, f"expected at most {NESTING_MAX} nested schedules, got {spec.depth()}")
    if spec.entries() > ENTRIES_MAX:
        raise InvalidSpec(name, f"expected at most {ENTRIES_MAX} entries in all, got {spec.entries()}")
