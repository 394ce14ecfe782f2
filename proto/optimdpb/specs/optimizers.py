"""Update rules of the SGD family as values; the adaptive ones are in specs.adaptive.

`lr` is a float or a schedule; it is held as a schedule. Defaults are those of torch where torch has the rule.
`optimd_server.optimizers` carries the rules out and has each equation with its source.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_choice, check_flag, check_number, check_positive
from optimdpb.specs.compound import one_cycles, plateaus
from optimdpb.specs.schedules import Schedule, as_schedule

# What a rule takes, and what it holds: pairs in order of names.
Schedules = Mapping[str, Schedule | float] | tuple[tuple[str, Schedule], ...]


@dataclass(frozen=True)
class Optimizer:
    """Base of every rule.

    schedules: for numeric hyper-parameters other than lr by name, such as {"weight_decay": Linear(0, 1e-2, 1000)}; a
    plain number is a Constant. What is scheduled takes the place of the field of that name.
    """

    lr: Schedule | float
    schedules: Schedules = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", as_schedule("lr", self.lr))
        if len(plateaus(as_schedule("lr", self.lr))) > 1:
            raise InvalidSpec("lr", "expected at most one plateau, got more")
        given = self.schedules
        if not isinstance(given, Mapping | tuple):
            raise InvalidSpec("schedules", f"expected schedules by hyper-parameter, got {given!r}")
        by_name = {name: as_schedule(f"schedules.{name}", value) for name, value in dict(given).items()}
        object.__setattr__(self, "schedules", tuple(sorted(by_name.items())))
        self._check_schedules(by_name)

    def _check_schedules(self, by_name: dict[str, Schedule]) -> None:
        """Every value that comes must be one that the field itself could have."""
        known = self.numbers()
        for name, schedule in by_name.items():
            if name not in known:
                raise InvalidSpec(f"schedules.{name}", f"expected one of {', '.join(known)}, got {name!r}")
            if plateaus(schedule):
                raise InvalidSpec(f"schedules.{name}", "expected no plateau: only lr may follow the loss")
        for bounds in zip(*(schedule.limits for schedule in by_name.values()), strict=True):
            try:
                self._check_at(dict(zip(by_name, bounds, strict=True)))
            except InvalidSpec as error:
                where = f"schedules.{error.field}" if error.field in by_name else error.field
                raise InvalidSpec(where, error.problem) from None
        driven, cycles = self.momentum_driven(), one_cycles(as_schedule("lr", self.lr))
        if driven and cycles:
            self._check_at({driven: min(cycle.momentum_min for cycle in cycles)})
            self._check_at({driven: max(cycle.momentum_max for cycle in cycles)})

    def _check_at(self, values: Mapping[str, float]) -> None:
        checked: dict[str, Any] = {"lr": 0.0, "schedules": (), **values}
        replace(self, **checked)

    @classmethod
    def numbers(cls) -> tuple[str, ...]:
        """Names of the numeric hyper-parameters beside lr."""
        return tuple(entry.name for entry in fields(cls) if isinstance(entry.default, float))

    def at(self, values: Mapping[str, Any]) -> Self:
        """The rule with these hyper-parameters, nothing but lr scheduled any more.

        They are not checked again: what schedules give lies within the bounds that this rule was checked at.
        """
        resolved = copy.copy(self)
        for name, value in {"schedules": (), **values}.items():
            object.__setattr__(resolved, name, value)
        return resolved

    def momentum_driven(self) -> str:
        """What a OneCycle drives: "momentum" or "beta1", if above 0 and not scheduled itself; "" for nothing."""
        for name in ("momentum", "beta1"):
            value = getattr(self, name, None)  # of any type as long as it is not checked
            if isinstance(value, int | float) and value > 0.0 and name not in dict(self.schedules):
                return name
        return ""

    def scheduled(self) -> dict[str, Schedule]:
        """The schedules by hyper-parameter, lr apart."""
        return {name: as_schedule(name, schedule) for name, schedule in dict(self.schedules).items()}


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= lr g, with g += weight_decay w."""

    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "weight_decay", 0.0)


@dataclass(frozen=True)
class SGDM(Optimizer):
    """SGD with momentum, with g += weight_decay w.

    form="heavy_ball" (torch): m = momentum m + (1 - dampening) g, the first m is g; w -= lr m, or with nesterov
    w -= lr (g + momentum m). form="ema" (the lecture): m = momentum m + (1 - momentum) g; w -= lr m.
    form="lr_inside": m = momentum m + lr g; w -= m. It differs from heavy_ball only while lr changes.
    """

    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    form: str = "heavy_ball"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum", 0.0, 1.0, below_high=True)
        check_number(self, "dampening", 0.0, 1.0)
        check_flag(self, "nesterov")
        check_number(self, "weight_decay", 0.0)
        check_choice(self, "form", ("heavy_ball", "ema", "lr_inside"))
        if self.form != "heavy_ball" and self.dampening != 0.0:
            raise InvalidSpec("dampening", f'expected 0 with form="{self.form}", got {self.dampening:g}')
        if self.form != "heavy_ball" and self.nesterov:
            raise InvalidSpec("nesterov", f'expected False with form="{self.form}", got True')
        if self.nesterov and (self.dampening != 0.0 or self.momentum == 0.0):
            raise InvalidSpec("nesterov", "expected momentum above 0 and dampening 0 with nesterov")


@dataclass(frozen=True)
class SGDW(Optimizer):
    """SGD with momentum and decoupled decay: m = momentum m + g; w -= lr weight_decay w; w -= lr m."""

    momentum: float = 0.9
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum", 0.0, 1.0, below_high=True)
        check_number(self, "weight_decay", 0.0)


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion: w -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay w); then m = beta2 m + (1 - beta2) g."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "beta1", 0.0, 1.0, below_high=True)
        check_number(self, "beta2", 0.0, 1.0, below_high=True)
        check_number(self, "weight_decay", 0.0)


@dataclass(frozen=True)
class LARS(Optimizer):
    """LARS: u = g + weight_decay w; m = momentum m + lr trust_coefficient |w| / |u| u; w -= m. Norms are per tensor."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    trust_coefficient: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum", 0.0, 1.0, below_high=True)
        check_number(self, "weight_decay", 0.0)
        check_positive(self, "trust_coefficient")
