"""Adaptive update rules as values: those that divide by a running size of the gradient.

m^ and v^ are m and v divided by 1 - beta^k, k = 1 for the first update.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.specs.checks import check_choice, check_flag, check_number, check_positive
from optimdpb.specs.optimizers import Optimizer


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad, with g += weight_decay w: a += g^2; w -= lr g / (sqrt(a) + eps). The lecture's form: eps=0."""

    eps: float = 1e-10
    initial_accumulator: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "eps", 0.0)
        check_number(self, "initial_accumulator", 0.0)
        check_number(self, "weight_decay", 0.0)


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Adadelta: w -= lr d, d = sqrt(u + eps) / sqrt(v + eps) g, with running means v of g^2 and u of d^2."""

    rho: float = 0.9
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "rho", 0.0, 1.0, below_high=True)
        check_number(self, "eps", 0.0)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp: v = alpha v + (1 - alpha) g^2; d = g / (sqrt(v) + eps); w -= lr d.

    centered: v minus the square of a mean of g stands under the root. momentum: b = momentum b + d; w -= lr b.
    v_init="first" (the lecture, with eps=0): the first v is the first g^2.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    centered: bool = False
    momentum: float = 0.0
    v_init: str = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", 0.0, 1.0, below_high=True)
        check_number(self, "eps", 0.0)
        check_flag(self, "centered")
        check_number(self, "momentum", 0.0)
        check_choice(self, "v_init", ("zero", "first"))


@dataclass(frozen=True)
class _Moments(Optimizer):
    """Base of the rules with two moments."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "beta1", 0.0, 1.0, below_high=True)
        check_number(self, "beta2", 0.0, 1.0, below_high=True)
        check_number(self, "eps", 0.0)


@dataclass(frozen=True)
class Adam(_Moments):
    """Adam (Kingma and Ba 2015), with g += weight_decay w.

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; w -= lr m^ / (sqrt(v^ + eps_root) + eps).
    The lecture's form: eps=0, eps_root=1e-8.
    """

    eps_root: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "eps_root", 0.0)
        check_number(self, "weight_decay", 0.0)


@dataclass(frozen=True)
class AdamW(_Moments):
    """Adam with decoupled decay: w -= lr weight_decay w, then Adam's step on g without decay."""

    eps_root: float = 0.0
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "eps_root", 0.0)
        check_number(self, "weight_decay", 0.0)


@dataclass(frozen=True)
class AMSGrad(_Moments):
    """Adam with the largest v so far, with g += weight_decay w. debias=False is the paper's form and the lecture's."""

    eps_root: float = 0.0
    weight_decay: float = 0.0
    debias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "eps_root", 0.0)
        check_number(self, "weight_decay", 0.0)
        check_flag(self, "debias")


@dataclass(frozen=True)
class Adamax(_Moments):
    """Adamax: u = max(beta2 u, |g| + eps); w -= lr m^ / u."""


@dataclass(frozen=True)
class NAdam(_Moments):
    """Adam with Nesterov momentum whose mu_k = beta1 (1 - 0.96^(k momentum_decay) / 2)."""

    momentum_decay: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum_decay", 0.0)


@dataclass(frozen=True)
class RAdam(_Moments):
    """Rectified Adam: SGD with momentum while the variance of v is unknown, then Adam times a rectification."""


@dataclass(frozen=True)
class Yogi(_Moments):
    """Adam with v = v - (1 - beta2) sign(v - g^2) g^2."""

    eps: float = 1e-3


@dataclass(frozen=True)
class AdaBound(_Moments):
    """Adam whose rate lr / (sqrt(v^) + eps) is kept between bounds that close in on final_lr; gamma is their speed.

    amsbound: with the largest v so far. The bounds follow the learning rate: they are scaled by lr(t) / lr_peak.
    """

    final_lr: float = 0.1
    gamma: float = 1e-3
    amsbound: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "final_lr")
        check_positive(self, "gamma")
        check_flag(self, "amsbound")


@dataclass(frozen=True)
class SWATS(_Moments):
    """Adam that switches once, for the whole job, to SGD with momentum beta1 and the rate it has learned.

    switch_tolerance: how close the projected rate must be to its own running mean.
    """

    eps: float = 1e-9
    switch_tolerance: float = 1e-9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "switch_tolerance", 0.0)


@dataclass(frozen=True)
class LAMB(_Moments):
    """LAMB: u = m^ / (sqrt(v^) + eps) + weight_decay w; w -= lr |w| / |u| u. Norms are per tensor."""

    eps: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "weight_decay", 0.0)
