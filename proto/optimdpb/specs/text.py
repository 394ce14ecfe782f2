"""Schedules as one line of text and back: sgdr(lr_max=0.001, lr_min=1e-05, period=500).

The name is the class's in snake_case (the contract's word for it), then its fields as in Python, by place or by name; a
bare number is a Constant. Nothing is evaluated: only calls of these names, numbers, words in quotes, lists and tuples.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

from optimdpb.errors import InvalidSpec
from optimdpb.specs.compound import Plateau, Sequence, Table, Warmup
from optimdpb.specs.cycles import SGDR, Cyclical, OneCycle, WarmupStableDecay
from optimdpb.specs.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Schedule,
    Step,
    as_schedule,
)

CHARACTERS_MAX = 1_000_000

CLASS_OF_NAME: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "polynomial": Polynomial,
    "step": Step,
    "multi_step": MultiStep,
    "exponential": Exponential,
    "inverse_sqrt": InverseSqrt,
    "cosine": Cosine,
    "sgdr": SGDR,
    "cyclical": Cyclical,
    "one_cycle": OneCycle,
    "warmup_stable_decay": WarmupStableDecay,
    "warmup": Warmup,
    "sequence": Sequence,
    "table": Table,
    "plateau": Plateau,
}
_NAME_OF_CLASS = {schedule_class: name for name, schedule_class in CLASS_OF_NAME.items()}


def schedule_to_text(schedule: Schedule) -> str:
    """The shortest spelling by field names: what has its default is left out. Numbers are kept exactly."""
    fields = []
    for field in dataclasses.fields(schedule):
        value = getattr(schedule, field.name)
        if value != field.default:
            fields.append(f"{field.name}={_value_to_text(value)}")
    return f"{_NAME_OF_CLASS[type(schedule)]}({', '.join(fields)})"


def schedule_from_text(text: str, characters_max: int | None = CHARACTERS_MAX) -> Schedule:
    """The schedule that the text spells. Raises InvalidSpec, saying what was expected and what came.

    characters_max: None for text that schedule_to_text() made, which is as long as its schedule.
    """
    if characters_max is not None and len(text) > characters_max:
        raise InvalidSpec("schedule", f"expected at most {characters_max} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.msg if isinstance(error, SyntaxError) else str(error)
        raise InvalidSpec(
            "schedule", f"expected a schedule such as {_EXAMPLE}, got {text[:100]!r}: {problem}"
        ) from None
    try:
        return as_schedule("schedule", _value_of(tree))
    except InvalidSpec:
        raise
    except RecursionError:
        raise InvalidSpec("schedule", "expected a schedule, got one that is nested too deep") from None
    except ValueError as error:  # Python writes no integer of more than 4,300 digits
        raise InvalidSpec("schedule", f"expected a schedule, got one that cannot be shown: {error}") from None


_EXAMPLE = "sgdr(lr_max=1e-3, lr_min=1e-5, period=500)"


def _value_to_text(value: Any) -> str:
    if isinstance(value, Schedule):
        return schedule_to_text(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_entry_to_text, value))}]"
    return repr(value)


def _entry_to_text(entry: Any) -> str:
    """An entry of a list: a number, or a pair."""
    return f"({', '.join(map(_value_to_text, entry))})" if isinstance(entry, tuple) else repr(entry)


def _value_of(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | None | bytes() | complex()):
            raise _unexpected(node)
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return tuple(_value_of(element) for element in elements)
        case ast.Call(func=ast.Name(id=name)):
            return _schedule_of(name, node)
    raise _unexpected(node)


def _schedule_of(name: str, call: ast.Call) -> Schedule:
    schedule_class = CLASS_OF_NAME.get(name.lower())
    if schedule_class is None:
        raise InvalidSpec("schedule", f"expected one of {', '.join(CLASS_OF_NAME)}, got {name!r}")
    fields = dataclasses.fields(schedule_class)
    if len(call.args) > len(fields):
        raise InvalidSpec(name, f"expected at most {len(fields)} values, got {len(call.args)}")
    values = {field.name: _value_of(node) for field, node in zip(fields, call.args, strict=False)}
    known = [field.name for field in fields]
    for keyword in call.keywords:
        if keyword.arg not in known:
            raise InvalidSpec(name, f"expected fields of {', '.join(known)}, got {keyword.arg or '**'!r}")
        if keyword.arg in values:
            raise InvalidSpec(name, f"expected each field once, got {keyword.arg!r} twice")
        values[keyword.arg] = _value_of(keyword.value)
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in values]
    if missing:
        raise InvalidSpec(name, f"expected a value for {', '.join(missing)}, got none")
    try:
        return schedule_class(**values)
    except InvalidSpec as error:
        raise InvalidSpec(f"{name}.{error.field}", error.problem) from None


def _unexpected(node: ast.expr) -> InvalidSpec:
    shown = ast.unparse(node)[:100]
    return InvalidSpec("schedule", f"expected a number, a word in quotes, a list or a schedule, got {shown}")
