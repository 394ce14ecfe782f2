"""Update rules with their hyper-parameters as values. `optimd_server.optimizers` carries them out.

`lr` is a float or a schedule; it is held as a schedule. Defaults are those of torch where torch has the rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import check_choice, check_flag, check_number
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
        check_choice(self, "form", ("heavy_ball", "ema"))
        if self.form == "ema" and self.dampening != 0.0:
            raise InvalidSpec("dampening", f'expected 0 with form="ema", got {self.dampening:g}')
        if self.form == "ema" and self.nesterov:
            raise InvalidSpec("nesterov", 'expected False with form="ema", got True')
        if self.nesterov and (self.dampening != 0.0 or self.momentum == 0.0):
            raise InvalidSpec("nesterov", "expected momentum above 0 and dampening 0 with nesterov")


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with g += weight_decay w.

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; with bias-corrected m^ and v^
    w -= lr m^ / (sqrt(v^ + eps_root) + eps). The lecture's form: eps=0, eps_root=1e-8.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "beta1", 0.0, 1.0, below_high=True)
        check_number(self, "beta2", 0.0, 1.0, below_high=True)
        check_number(self, "eps", 0.0)
        check_number(self, "eps_root", 0.0)
        check_number(self, "weight_decay", 0.0)
