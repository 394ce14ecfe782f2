"""Per-tensor settings of a rule."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
from dataclasses import dataclass
from typing import Any

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_flag, check_number
from optimdpb.specs.layout import NAME_BYTES_MAX, Layout
from optimdpb.specs.optimizers import Optimizer
from optimdpb.specs.schedules import Schedule

# Pairs of a group and a tensor that are tried; one takes up to 3 microseconds.
MATCHES_MAX = 20_000_000


@dataclass(frozen=True, init=False)
class Group:
    """Settings of the trained tensors whose name matches a shell-style pattern (* ? [..]); the first match wins.

    lr_multiplier: on the schedule's learning rate. frozen: updates leave the tensors alone. Any other keyword: a
    numeric hyper-parameter of the rule, such as weight_decay=0.0.
    """

    pattern: str
    lr_multiplier: float
    frozen: bool
    hyper_parameters: tuple[tuple[str, float], ...]

    def __init__(
        self, pattern: str, *, lr_multiplier: float = 1.0, frozen: bool = False, **hyper_parameters: float
    ) -> None:
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "lr_multiplier", lr_multiplier)
        object.__setattr__(self, "frozen", frozen)
        object.__setattr__(self, "hyper_parameters", tuple(sorted(hyper_parameters.items())))
        if not isinstance(pattern, str) or not pattern:
            raise InvalidSpec("pattern", f"expected a pattern over tensor names, got {pattern!r}")
        if len(pattern) > NAME_BYTES_MAX:
            raise InvalidSpec("pattern", f"expected at most {NAME_BYTES_MAX} characters, got {len(pattern)}")
        check_number(self, "lr_multiplier", 0.0)
        check_flag(self, "frozen")

    def matches(self, tensor: str) -> bool:
        """Whether the pattern matches a tensor's name."""
        return self._expression.match(tensor) is not None

    @functools.cached_property
    def _expression(self) -> re.Pattern[str]:
        """Compiled once: fnmatch remembers 256 patterns, and a specification may have more."""
        return re.compile(fnmatch.translate(self.pattern))

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
    """For each tensor the place of its group; None for one that no group matches, and for buffers."""
    places: list[int | None] = []
    for tensor in layout.tensors:
        matching = (place for place, group in enumerate(groups) if group.matches(tensor.name))
        places.append(None if tensor.kind == "buffer" else next(matching, None))
    return tuple(places)
