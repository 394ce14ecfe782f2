"""The specification of a whole job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_choice, check_integer, shown
from optimdpb.specs.clips import Clip
from optimdpb.specs.consistency import Consistency
from optimdpb.specs.groups import Group, Settings, first_group_difference, group_of_tensors
from optimdpb.specs.layout import Layout
from optimdpb.specs.optimizers import Optimizer
from optimdpb.specs.schedules import Constant, Schedule
from optimdpb.specs.text import schedule_to_text

# Of a schedule in a sentence.
SCHEDULE_CHARACTERS_MAX = 100
_NO_SETTINGS: Settings = Group("*").settings


_PARTS: tuple[tuple[str, type, str], ...] = (
    ("layout", Layout, "a Layout"),
    ("optimizer", Optimizer, "a rule such as optimd.Adam(lr=1e-3)"),
    ("consistency", Consistency, "optimd.Sync(workers) or optimd.Async()"),
)


@dataclass(frozen=True)
class JobSpec:
    """Layout, rule, consistency model and the settings around them. Without a first_difference() they are the same job.

    rejections_max: a worker whose pushes were rejected so often, none applied between, is set aside; None: never.
    """

    layout: Layout
    optimizer: Optimizer
    consistency: Consistency
    reduction: str = "mean"
    clip: Clip | None = None
    steps_max: int | None = None
    groups: tuple[Group, ...] = ()
    rejections_max: int | None = None
    tensor_groups: tuple[int | None, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, expected, example in _PARTS:
            if not isinstance(getattr(self, name), expected):
                raise InvalidSpec(name, f"expected {example}, got {shown(getattr(self, name))}")
        check_choice(self, "reduction", ("mean", "sum"))
        if self.clip is not None and not isinstance(self.clip, Clip):
            raise InvalidSpec("clip", f"expected a Clip or None, got {self.clip!r}")
        if self.steps_max is not None:
            check_integer(self, "steps_max", 1)
        if self.rejections_max is not None:
            check_integer(self, "rejections_max", 1)
        object.__setattr__(self, "groups", tuple(self.groups))
        for place, group in enumerate(self.groups):
            _check_group(f"groups[{place}]", group, self)
        object.__setattr__(self, "tensor_groups", group_of_tensors(self.layout, self.groups))

    @property
    def tensor_settings(self) -> tuple[Settings, ...]:
        """For each tensor what its group says; the defaults of a group where it has none."""
        return tuple(_NO_SETTINGS if place is None else self.groups[place].settings for place in self.tensor_groups)


def _check_group(path: str, group: Group, spec: JobSpec) -> None:
    if not isinstance(group, Group):
        raise InvalidSpec(path, f"expected a Group, got {group!r}")
    try:
        group.optimizer(spec.optimizer)
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}.{error.field}", error.problem) from None


def first_difference(expected: object, got: object, path: str = "") -> tuple[str, str, str] | None:
    """(path, what is expected, what came) of the first field that differs between two specifications, or None.

    Groups differ in what tensors get from them, not in how they choose them.
    """
    is_whole = type(expected) is not type(got) or isinstance(got, Constant)
    if isinstance(expected, Schedule) and isinstance(got, Schedule) and is_whole and expected != got:
        return path, schedule_words(expected), schedule_words(got)
    if type(expected) is not type(got):
        return path, _short(expected), _short(got)
    if isinstance(expected, Layout) and isinstance(got, Layout):
        return _first_layout_difference(expected, got, path)
    if isinstance(expected, tuple) and isinstance(got, tuple):
        if len(expected) != len(got):
            return path, f"{len(expected)} entries", f"{len(got)} entries"
        pairs = enumerate(zip(expected, got, strict=True))
        return next(((f"{path}[{i}]", shown(left), shown(right)) for i, (left, right) in pairs if left != right), None)
    if dataclasses.is_dataclass(expected) and not isinstance(expected, Clip):
        for field in dataclasses.fields(expected):
            found = _first_field_difference(expected, got, field.name, f"{path}.{field.name}" if path else field.name)
            if field.compare and found:
                return found
        return None
    return None if expected == got else (path, shown(expected), shown(got))


def _first_field_difference(expected: Any, got: Any, name: str, path: str) -> tuple[str, str, str] | None:
    if isinstance(expected, JobSpec) and name == "groups":
        return first_group_difference(expected.layout, expected.tensor_settings, got.tensor_settings)
    if isinstance(expected, Optimizer) and name == "schedules":
        left, right = expected.scheduled(), got.scheduled()
        for key in sorted({*left, *right}):
            found = first_difference(left.get(key), right.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    return first_difference(getattr(expected, name), getattr(got, name), path)


def _first_layout_difference(expected: Layout, got: Layout, path: str) -> tuple[str, str, str] | None:
    for index, (left, right) in enumerate(zip(expected.tensors, got.tensors, strict=False)):
        if left.name != right.name:
            return f"{path}.tensors[{index}].name", repr(left.name), repr(right.name)
        if left != right:
            return (
                f"{path}.tensors[{index}]",
                f"{left.name!r} {left.kind} {list(left.shape)}",
                f"{right.name!r} {right.kind} {list(right.shape)}",
            )
    if len(expected.tensors) != len(got.tensors):
        return f"{path}.tensors", f"{len(expected.tensors)} tensors", f"{len(got.tensors)} tensors"
    return None


def schedule_words(schedule: Schedule) -> str:
    """A constant as its number, any other as text, cut where it is very long."""
    text = repr(schedule.lr) if isinstance(schedule, Constant) else schedule_to_text(schedule)
    return text if len(text) <= SCHEDULE_CHARACTERS_MAX else text[: SCHEDULE_CHARACTERS_MAX - 1] + "…"


def _short(value: object) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)
