"""The specification of a whole job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_choice, check_integer, check_positive
from optimdpb.specs.consistency import Consistency
from optimdpb.specs.layout import Layout
from optimdpb.specs.optimizers import Optimizer


@dataclass(frozen=True)
class ClipGlobalNorm:
    """Scale the round's gradient by float32(norm_max / norm) where its Euclidean norm, over all tensors, exceeds it.

    torch's clip_grad_norm_ divides by norm + 1e-6 instead.
    """

    norm_max: float

    def __post_init__(self) -> None:
        check_positive(self, "norm_max")


@dataclass(frozen=True)
class JobSpec:
    """Layout, rule, consistency model and the settings around them. Equal specifications are the same job."""

    layout: Layout
    optimizer: Optimizer
    consistency: Consistency
    reduction: str = "mean"
    clip: ClipGlobalNorm | None = None
    steps_max: int | None = None

    def __post_init__(self) -> None:
        for name, expected in (("layout", Layout), ("optimizer", Optimizer), ("consistency", Consistency)):
            if not isinstance(getattr(self, name), expected):
                raise InvalidSpec(name, f"expected {expected.__name__}, got {getattr(self, name)!r}")
        check_choice(self, "reduction", ("mean", "sum"))
        if self.clip is not None and not isinstance(self.clip, ClipGlobalNorm):
            raise InvalidSpec("clip", f"expected ClipGlobalNorm or None, got {self.clip!r}")
        if self.steps_max is not None:
            check_integer(self, "steps_max", 1)


def first_difference(expected: object, got: object, path: str = "") -> tuple[str, str, str] | None:
    """(path, what is expected, what came) of the first field that differs between two specifications, or None."""
    if type(expected) is not type(got):
        return path, _short(expected), _short(got)
    if isinstance(expected, Layout) and isinstance(got, Layout):
        return _first_layout_difference(expected, got, path)
    if dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            if not field.compare:
                continue
            found = first_difference(
                getattr(expected, field.name), getattr(got, field.name), f"{path}.{field.name}" if path else field.name
            )
            if found:
                return found
        return None
    return None if expected == got else (path, _short(expected), _short(got))


def _first_layout_difference(expected: Layout, got: Layout, path: str) -> tuple[str, str, str] | None:
    for index, (left, right) in enumerate(zip(expected.tensors, got.tensors, strict=False)):
        if left.name != right.name:
            return f"{path}.tensors[{index}].name", repr(left.name), repr(right.name)
        if left != right:
            return (
                f"{path}.tensors[{left.name!r}]",
                f"{left.kind} {list(left.shape)}",
                f"{right.kind} {list(right.shape)}",
            )
    if len(expected.tensors) != len(got.tensors):
        return f"{path}.tensors", f"{len(expected.tensors)} tensors", f"{len(got.tensors)} tensors"
    return None


def _short(value: object) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)
