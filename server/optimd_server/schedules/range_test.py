"""The learning-rate range test (Smith 2017, arXiv:1506.01186, section 3.3): the sweep, and what its losses suggest.

The losses are smoothed by a mean over neighbours on both sides: a running mean would shift the curve.
base is where the smoothed loss falls fastest, by the logarithm of the rate: the steepest descent. max is the edge of
divergence: the largest rate, from the lowest point of the curve on, before the loss has risen by EDGE of its fall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimd_server.schedules.evaluate import RateOf

# Neighbours on either side, as a share of the curve.
SMOOTHED = 0.03
EDGE = 0.1
# A fall smaller than this share of the first loss suggests nothing.
FALL_MIN = 0.05
POINTS_MIN = 5
# Beyond it sums would overflow.
LOSS_MAX = 1e100


@dataclass(frozen=True)
class Suggestion:
    """lr_base and lr_max are None where the losses suggest none; `smoothed` has one loss for each point."""

    lr_base: float | None
    lr_max: float | None
    smoothed: tuple[float, ...]
    explanation: str


def sweep_of(lr_start: float, lr_end: float, steps: int, sweep: str) -> RateOf:
    """From lr_start at step 0 to lr_end at step steps - 1, "exponential" or "linear"."""
    last = steps - 1
    if sweep == "linear":
        return lambda step: lr_end if step >= last else lr_start + (lr_end - lr_start) * (step / last)
    ratio = lr_end / lr_start
    return lambda step: lr_end if step >= last else lr_start * ratio ** (step / last)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Read base and max from a curve of rising rates and finite losses. Never raises, whatever they are."""
    if len(losses) < POINTS_MIN:
        problem = f"no suggestion: expected at least {POINTS_MIN} rounds with a loss, got {len(losses)}"
        return Suggestion(None, None, tuple(losses), problem)
    smoothed = _smooth([min(max(loss, -LOSS_MAX), LOSS_MAX) for loss in losses])
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    first, least = max(smoothed[: lowest + 1]), smoothed[lowest]
    fall = first - least
    if fall < FALL_MIN * abs(smoothed[0]) or lowest == 0:
        problem = f"no suggestion: the loss never falls clearly, from {smoothed[0]:.4g} to {least:.4g} at best"
        return Suggestion(None, None, tuple(smoothed), f"{problem}; try lower or higher rates, or more steps")
    steepest = _steepest(rates, smoothed, lowest)
    edge = next((i - 1 for i in range(lowest + 1, len(smoothed)) if smoothed[i] > least + EDGE * fall), None)
    words = f"the loss falls fastest at {rates[steepest]:.3g}, is lowest ({least:.4g}) at {rates[lowest]:.3g}"
    if edge is None:
        explanation = f"{words} and has not risen by the end: sweep further for the edge of divergence"
        return Suggestion(rates[steepest], rates[-1], tuple(smoothed), explanation)
    explanation = f"{words} and has risen by {EDGE:.0%} of its fall behind {rates[edge]:.3g}, the edge of divergence"
    return Suggestion(rates[steepest], rates[edge], tuple(smoothed), explanation)


def _smooth(losses: Sequence[float]) -> list[float]:
    """Mean over a triangle of neighbours, those that there are."""
    width = _width(len(losses))
    weights = width + 1.0 - np.abs(np.arange(-width, width + 1))
    means = np.convolve(losses, weights, "same") / np.convolve(np.ones(len(losses)), weights, "same")
    return [float(mean) for mean in means]


def _width(count: int) -> int:
    return max(1, round(SMOOTHED * count))


def _steepest(rates: Sequence[float], smoothed: Sequence[float], lowest: int) -> int:
    """Where the loss falls fastest on its way to the lowest point, by differences over the logarithm of the rate.

    They are as wide as the smoothing; nearer to either end than that, noise would decide.
    """
    width = max(1, min(_width(len(smoothed)), lowest // 2))
    logarithms = [math.log(rate) if rate > 0.0 else -math.inf for rate in rates[: lowest + 1]]

    def slope(i: int) -> float:
        left, right = max(i - width, 0), min(i + width, lowest)
        run = logarithms[right] - logarithms[left]
        return (smoothed[right] - smoothed[left]) / run if run > 0.0 else 0.0

    return min(range(width, max(lowest - width, width) + 1), key=slope)
