"""Update rules of the SGD family as values; the adaptive ones are in specs.adaptive.

`lr` is a float or a schedule; it is held as a schedule. Defaults are those of torch where torch has the rule.
`optimd_server.optimizers` carries the rules out and has each equation with its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_choice, check_flag, check_number, check_positive
from optimdpb.specs.schedules import Schedule, as_schedule


@dataclass(frozen=True)
class Optimizer:
    """Base of every rule."""

    lr: Schedule | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", as_schedule("lr", self.lr))


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
