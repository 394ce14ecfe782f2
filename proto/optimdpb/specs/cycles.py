"""Schedules that rise and fall, as values."""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.errors import InvalidSpec
from optimdpb.specs.checks import STEPS_MAX, check_choice, check_integer, check_number
from optimdpb.specs.schedules import Schedule, check_factor, check_range


@dataclass(frozen=True)
class SGDR(Schedule):
    """Cosine with warm restarts (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Run i = 0, 1, ... takes T = period period_mult^i steps; t steps after its start
    lr = decay^i (lr_min + (lr_max - lr_min) (1 + cos(pi t / T)) / 2). A restart comes instead of the run's last value,
    so lr_min itself is never reached. The paper lets both limits change from run to run; decay does that to both.
    """

    lr_max: float
    lr_min: float
    period: int
    period_mult: int = 1
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_range(self)
        check_integer(self, "period", 1)
        check_integer(self, "period_mult", 1)
        check_factor(self, "decay")

    def bounds(self) -> tuple[float, float]:
        return (self.lr_min if self.decay == 1.0 else 0.0), self.lr_max


@dataclass(frozen=True)
class Cyclical(Schedule):
    """Cyclical learning rates (Smith 2017, arXiv:1506.01186): triangles of half width step_size from lr_min to lr_max.

    policy "triangular": all alike; "triangular2": each half as high as the last; "exp_range": height gamma^t, with
    0 < gamma <= 1: above 1 no bound would hold. Only "exp_range" has a gamma.
    """

    lr_min: float
    lr_max: float
    step_size: int
    policy: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_range(self)
        check_integer(self, "step_size", 1)
        check_choice(self, "policy", ("triangular", "triangular2", "exp_range"))
        check_factor(self, "gamma")
        if self.policy != "exp_range" and self.gamma != 1.0:
            raise InvalidSpec("gamma", f'expected 1 with policy="{self.policy}", got {self.gamma:g}')

    def bounds(self) -> tuple[float, float]:
        return self.lr_min, self.lr_max


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One-cycle policy (Smith 2018, arXiv:1803.09820), in the form of torch.optim.lr_scheduler.OneCycleLR.

    Half a cosine from lr_max / div_factor up to lr_max at t = pct_start steps - 1, then half a cosine down to
    lr_max / div_factor / final_div_factor at t = steps - 1. The momentum of the rule (momentum, or beta1), if it is
    above 0, goes the other way, from momentum_max to momentum_min and back; one that is scheduled by itself does not.
    """

    lr_max: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    momentum_min: float = 0.85
    momentum_max: float = 0.95

    def __post_init__(self) -> None:
        check_number(self, "lr_max", 0.0)
        check_integer(self, "steps", 1)
        check_number(self, "pct_start", 0.0, 1.0, below_high=True)
        if self.pct_start == 0.0:
            raise InvalidSpec("pct_start", "expected a number above 0 and below 1, got 0")
        check_number(self, "div_factor", 1.0)
        check_number(self, "final_div_factor", 1.0)
        check_number(self, "momentum_min", 0.0, 1.0, below_high=True)
        check_number(self, "momentum_max", 0.0, 1.0, below_high=True)
        if self.momentum_max < self.momentum_min:
            least = f"expected at least momentum_min = {self.momentum_min:g}"
            raise InvalidSpec("momentum_max", f"{least}, got {self.momentum_max:g}")

    def bounds(self) -> tuple[float, float]:
        return self.lr_max / self.div_factor / self.final_div_factor, self.lr_max


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """Up to lr in a straight line, flat, down to lr_end in a straight line (Hu et al. 2024, arXiv:2404.06395).

    lr(t) = lr (t + 1) / warmup_steps, then lr for stable_steps, then from lr to lr_end in decay_steps >= 1.
    """

    lr: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    lr_end: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "lr", 0.0)
        check_integer(self, "warmup_steps", 0)
        check_integer(self, "stable_steps", 0)
        check_integer(self, "decay_steps", 1)
        check_number(self, "lr_end", 0.0)
        length = self.warmup_steps + self.stable_steps + self.decay_steps
        if length > STEPS_MAX:
            raise InvalidSpec("decay_steps", f"expected at most 2^53 steps together, got {length}")

    def bounds(self) -> tuple[float, float]:
        first = self.lr / self.warmup_steps if self.warmup_steps else self.lr
        return min(first, self.lr_end), max(self.lr, self.lr_end)
