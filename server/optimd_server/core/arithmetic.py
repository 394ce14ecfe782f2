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
    """Mean by weight, in byte order of names, of the finite losses reported; None if there is none."""
    weighted, weights = 0.0, 0.0
    for committed in sorted(pushes, key=lambda committed: committed.push.worker):
        loss = committed.push.loss
        if loss is not None and math.isfinite(loss):
            weighted += committed.push.weight * loss
            weights += committed.push.weight
    return weighted / weights if weights else None
