"""Plain values as strict JSON and back: infinity and NaN, which JSON has not, are objects that name them."""

from __future__ import annotations

import json
import math
from typing import Any

_KEY = "$float"


def to_json(value: Any) -> Any:
    """The same with every infinite or NaN float as {"$float": "inf"}, "-inf" or "nan"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else {_KEY: repr(float(value))}
    if isinstance(value, dict):
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    return value


def from_json(value: Any) -> Any:
    """The value that to_json() was given, tuples as lists. Raises ValueError."""
    if isinstance(value, dict):
        if set(value) == {_KEY}:
            return float(value[_KEY])
        return {key: from_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [from_json(entry) for entry in value]
    return value


def json_line(value: Any) -> str:
    """One line of strict JSON."""
    return json.dumps(to_json(value), allow_nan=False)


def of_json_line(text: str) -> Any:
    """What json_line() was given; NaN and Infinity as words, as older files have them, are read. Raises ValueError."""
    return from_json(json.loads(text))
