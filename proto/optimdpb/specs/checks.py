"""Range checks for fields of specifications. Each raises InvalidSpec and names what was expected and what came."""

from __future__ import annotations

import math
import numbers
from typing import Any

from optimdpb.errors import InvalidSpec

STEPS_MAX = 2**53
# Kernels compute in float32: what exceeds it would be infinity there.
FLOAT32_MAX = 3.4028234663852886e38


def shown(value: object) -> str:
    """The value as text for a message, also where Python refuses to write it."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return "one that is too large to be written here"


def check_number(spec: object, name: str, low: float, high: float = FLOAT32_MAX, *, below_high: bool = False) -> None:
    """Require low <= value <= high (or < high), finite; normalise ints and numpy's numbers to float."""
    given: Any = getattr(spec, name)
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        raise InvalidSpec(name, f"expected a number, got {shown(given)}")
    value = as_float(name, given)
    if not math.isfinite(value) or value < low or value > high or (below_high and value == high):
        raise InvalidSpec(name, f"expected {_interval(low, high, below_high)}, got {value!r}")
    object.__setattr__(spec, name, value)


def as_float(name: str, number: Any) -> float:
    """The number as a float. Raises InvalidSpec where it is too large for one."""
    try:
        return float(number)
    except OverflowError:
        raise InvalidSpec(name, "expected a number that a float can hold, got a larger one") from None


def check_positive(spec: object, name: str) -> None:
    """Require a finite number above zero."""
    check_number(spec, name, 0.0)
    if getattr(spec, name) == 0.0:
        raise InvalidSpec(name, "expected a number above 0, got 0")


def check_integer(spec: object, name: str, low: int, high: int = STEPS_MAX) -> None:
    """Require an integer low <= value <= high; normalise numpy's integers to int."""
    given: Any = getattr(spec, name)
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise InvalidSpec(name, f"expected an integer, got {shown(given)}")
    value = int(given)
    if not low <= value <= high:
        raise InvalidSpec(name, f"expected an integer from {low} to {high}, got {shown(value)}")
    object.__setattr__(spec, name, value)


def check_flag(spec: object, name: str) -> None:
    """Require a bool."""
    if not isinstance(getattr(spec, name), bool):
        raise InvalidSpec(name, f"expected True or False, got {getattr(spec, name)!r}")


def check_choice(spec: object, name: str, choices: tuple[str, ...]) -> None:
    """Require one of the words."""
    if getattr(spec, name) not in choices:
        raise InvalidSpec(name, f"expected one of {', '.join(choices)}, got {getattr(spec, name)!r}")


def _interval(low: float, high: float, below_high: bool) -> str:
    if high == FLOAT32_MAX:
        return f"a finite number >= {low:g} that fits float32"
    return f"a number from {low:g} to {'below ' if below_high else ''}{high:g}"
