"""The arithmetic of closing a round: order, scales, bounds, loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optimd_server.core.effects import Contribution
from optimd_server.core.events import Push

# The square of anything larger overflows float32 on its way into a second moment.
ROUND_MAGNITUDE_MAX = 1e18
# A loss beyond counts as this, so that no sum of them exceeds float64.
LOSS_MAX = 1e300


@dataclass
class Committed:
    """A push whose payload is staged."""

    push: Push
    magnitude_max: float


def contributions(pushes: Iterable[Committed], reduction: str, factor: float = 1.0) -> tuple[Contribution, ...]:
    """Gradients in byte order of worker names with s_i = float32(w_i / sum of w), or 1 for a sum, times `factor`."""
    ordered = sorted((committed.push for committed in pushes), key=lambda push: push.worker)
    total = 0.0
    for push in ordered:
        total += push.weight
    shares = [float(np.float32(push.weight / total)) for push in ordered]
    return tuple(
        Contribution(
            push.worker,
            push.epoch,
            push.seq,
            float(np.float32(factor * (1.0 if reduction == "sum" else share))),
            share,
            push.base.step,
        )
        for push, share in zip(ordered, shares, strict=True)
    )


def too_large(parts: tuple[Contribution, ...], pushes: dict[str, Committed]) -> set[str]:
    """Workers that make the sum of s_i max_i exceed ROUND_MAGNITUDE_MAX: each that does so alone, else the largest."""
    sizes = {part.worker: part.scale * pushes[part.worker].magnitude_max for part in parts}
    if math.fsum(sizes.values()) <= ROUND_MAGNITUDE_MAX:
        return set()
    alone = {worker for worker, size in sizes.items() if size > ROUND_MAGNITUDE_MAX}
    return alone or {max(sizes, key=lambda worker: (sizes[worker], worker))}


def mean_loss(pushes: Iterable[Committed]) -> float | None:
    """Mean by weight of the finite losses reported, finite itself; None if there is none."""
    pairs = [
        (committed.push.weight, committed.push.loss)
        for committed in pushes
        if committed.push.loss is not None and math.isfinite(committed.push.loss)
    ]
    if not pairs:
        return None
    if len(pairs) == 1:
        return min(max(pairs[0][1], -LOSS_MAX), LOSS_MAX)
    # By shares: a weight times a loss may exceed float64. Weights themselves may be as small as float64 goes.
    largest = max(weight for weight, _ in pairs)
    total = math.fsum(weight / largest for weight, _ in pairs)
    return math.fsum(weight / largest / total * min(max(loss, -LOSS_MAX), LOSS_MAX) for weight, loss in pairs)
