"""Per-tensor settings of a rule."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_flag, check_integer, check_number
from optimdpb.specs.layout import DIMENSIONS_MAX, NAME_BYTES_MAX, Layout
from optimdpb.specs.optimizers import Optimizer
from optimdpb.specs.patterns import Names
from optimdpb.specs.schedules import Schedule

# lr_multiplier, frozen, hyper-parameters by name.
Settings = tuple[float, bool, tuple[tuple[str, float], ...]]


@dataclass(frozen=True, init=False)
class Group:
    """Settings of the trained tensors whose name matches a pattern (* ? [a-z] [!a-z]); a tensor's first group wins.

    ndim_min, ndim_max: only tensors of so many dimensions, as Group("*", ndim_max=1, weight_decay=0.0) for decay on
    matrices alone. lr_multiplier: on the schedule's learning rate. frozen: updates leave the tensors alone. Any other
    keyword: a numeric hyper-parameter of the rule, such as weight_decay=0.0.
    """

    pattern: str
    ndim_min: int | None
    ndim_max: int | None
    lr_multiplier: float
    frozen: bool
    hyper_parameters: tuple[tuple[str, float], ...]

    def __init__(
        self,
        pattern: str,
        *,
        ndim_min: int | None = None,
        ndim_max: int | None = None,
        lr_multiplier: float = 1.0,
        frozen: bool = False,
        **hyper_parameters: float,
    ) -> None:
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "ndim_min", ndim_min)
        object.__setattr__(self, "ndim_max", ndim_max)
        object.__setattr__(self, "lr_multiplier", lr_multiplier)
        object.__setattr__(self, "frozen", frozen)
        object.__setattr__(self, "hyper_parameters", tuple(sorted(hyper_parameters.items())))
        if not isinstance(pattern, str) or not pattern:
            raise InvalidSpec("pattern", f"expected a pattern over tensor names, got {pattern!r}")
        if len(pattern) > NAME_BYTES_MAX:
            raise InvalidSpec("pattern", f"expected at most {NAME_BYTES_MAX} characters, got {len(pattern)}")
        for name in ("ndim_min", "ndim_max"):
            if getattr(self, name) is not None:
                check_integer(self, name, 0, DIMENSIONS_MAX)
        if self.ndim_min is not None and self.ndim_max is not None and self.ndim_min > self.ndim_max:
            raise InvalidSpec("ndim_min", f"expected at most ndim_max = {self.ndim_max}, got {self.ndim_min}")
        check_number(self, "lr_multiplier", 0.0)
        check_flag(self, "frozen")

    @property
    def settings(self) -> Settings:
        """What its tensors get."""
        return self.lr_multiplier, self.frozen, self.hyper_parameters

    def optimizer(self, base: Optimizer) -> Optimizer:
        """The rule with this group's hyper-parameters, checked. Raises InvalidSpec, listing those that the rule has."""
        known = base.numbers()
        for name, _ in self.hyper_parameters:
            if name not in known:
                message = (
                    f"{type(base).__name__} has no numeric hyper-parameter of this name; it has {', '.join(known)}"
                )
                raise InvalidSpec(name, message)
        own: dict[str, Any] = dict(self.hyper_parameters)
        return dataclasses.replace(base, schedules=self._others(base), **own)

    def over(self, base: Optimizer) -> Optimizer:
        """As optimizer(), for a rule that was checked so or differs from one that was in values of schedules alone."""
        return base.at({**dict(self.hyper_parameters), "schedules": tuple(self._others(base).items())})

    def _others(self, base: Optimizer) -> dict[str, Schedule]:
        """Schedules of hyper-parameters that the group does not set itself."""
        own = dict(self.hyper_parameters)
        return {name: schedule for name, schedule in base.scheduled().items() if name not in own}


def group_of_tensors(layout: Layout, groups: tuple[Group, ...]) -> tuple[int | None, ...]:
    """For each tensor the place of the first group that chooses it; None for one that none does, and for buffers.

    Raises InvalidSpec for a group that chooses no trained tensor.
    """
    if not groups:
        return (None,) * len(layout.tensors)
    names = Names(layout.names)
    trained = np.array([tensor.kind == "trainable" for tensor in layout.tensors])
    ndims = np.array([len(tensor.shape) for tensor in layout.tensors])
    places = np.full(len(layout.tensors), len(groups))
    for place, group in reversed([*enumerate(groups)]):
        named = names.matching(group.pattern) & trained
        chosen = named & (ndims >= (group.ndim_min or 0))
        if group.ndim_max is not None:
            chosen &= ndims <= group.ndim_max
        if not chosen.any():
            raise _chooses_nothing(f"groups[{place}]", group, ndims[named])
        places[chosen] = place
    return tuple(None if place == len(groups) else place for place in places.tolist())


def _chooses_nothing(path: str, group: Group, ndims: NDArray[np.int64]) -> InvalidSpec:
    """ndims: of the trained tensors whose names match."""
    if not ndims.size:
        return InvalidSpec(f"{path}.pattern", f"expected one that matches a trained tensor, got {group.pattern!r}")
    field = "ndim_min" if group.ndim_max is None else "ndim_max"
    seen = ", ".join(map(str, np.unique(ndims).tolist()))
    message = f"expected a trained tensor that matches {group.pattern!r} with {group.ndim_min or 0} to"
    message += (
        f" {DIMENSIONS_MAX if group.ndim_max is None else group.ndim_max} dimensions; those that match have {seen}"
    )
    return InvalidSpec(f"{path}.{field}", message)


def first_group_difference(
    layout: Layout, expected: tuple[Settings, ...], got: tuple[Settings, ...]
) -> tuple[str, str, str] | None:
    """As first_difference(): of the first tensor that gets other settings."""
    for name, left, right in zip(layout.names, expected, got, strict=True):
        if left != right:
            return "groups", f"for tensor {name!r} {_words(left)}", f"for tensor {name!r} {_words(right)}"
    return None


def _words(settings: Settings) -> str:
    lr_multiplier, frozen, hyper_parameters = settings
    if frozen:
        return "frozen"
    return ", ".join(f"{name}={value!r}" for name, value in (("lr_multiplier", lr_multiplier), *hyper_parameters))
