"""The state of a Plateau, moved by one loss at a time. As torch.optim.lr_scheduler.ReduceLROnPlateau, mode "min".

torch measures the threshold as best (1 - threshold), which for a negative best calls a worse loss better; here it is
best - threshold |best|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from optimdpb.specs import Plateau


@dataclass(frozen=True)
class PlateauState:
    """lr: the rate now; best: the least loss so far; bad: rounds without improvement; rest: of the cool-down, left."""

    lr: float
    best: float = math.inf
    bad: int = 0
    rest: int = 0

    @staticmethod
    def first(spec: Plateau) -> PlateauState:
        """Before any loss."""
        return PlateauState(spec.lr)

    def after(self, spec: Plateau, loss: float) -> PlateauState:
        """The state behind a round with this finite loss."""
        better = self.best == math.inf or loss < self.best - spec.threshold * abs(self.best)
        best, bad, rest = (loss, 0, self.rest) if better else (self.best, self.bad + 1, self.rest)
        if rest:
            bad, rest = 0, rest - 1
        if bad > spec.patience:
            return PlateauState(max(spec.lr_min, self.lr * spec.factor), best, 0, spec.cooldown)
        return replace(self, best=best, bad=bad, rest=rest)
