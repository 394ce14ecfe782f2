"""A plain one-process training loop in numpy float32, written from the definition of a round and of each rule.

Every operation is one numpy operation on float32 arrays, so each result is rounded by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optimdpb.specs import SGD, SGDM, Adam, Layout, Optimizer

Float32s = NDArray[np.float32]
f32 = np.float32


@dataclass
class Contribution:
    """One worker's gradient in a round."""

    worker: str
    weight: float
    gradient: Float32s


class OneProcess:
    """Parameters and slots, updated round by round."""

    def __init__(self, layout: Layout, parameters: Float32s, optimizer: Optimizer, clip_norm: float | None) -> None:
        self.layout = layout
        self.parameters = parameters.copy()
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.count = 0
        slots = 0 if isinstance(optimizer, SGD) else 1 if isinstance(optimizer, SGDM) else 2
        self.slots = np.zeros((slots, parameters.size), np.float32)

    def round(self, contributions: Sequence[Contribution], lr: float) -> None:
        """One update from these gradients, in whatever order they are given."""
        gradient = _reduce(contributions)
        if self.clip_norm is not None:
            norm = math.sqrt(_sum_of_squares(self.layout, gradient))
            if norm > self.clip_norm:
                gradient = f32(self.clip_norm / norm) * gradient
        self._step(gradient, lr)
        self.count += 1

    def _step(self, g: Float32s, lr: float) -> None:
        w, o, k = self.parameters, self.optimizer, self.count
        decay = getattr(o, "weight_decay", 0.0)
        if decay:
            g = g + f32(decay) * w
        if isinstance(o, SGD):
            w -= f32(lr) * g
        elif isinstance(o, SGDM):
            m = self.slots[0]
            share = 1 - o.momentum if o.form == "ema" else 1.0 if k == 0 else 1 - o.dampening
            m[:] = f32(o.momentum) * m + f32(share) * g
            w -= f32(lr) * (g + f32(o.momentum) * m if o.nesterov else m)
        elif isinstance(o, Adam):
            m, v = self.slots
            m[:] = _blend(m, g, o.beta1)
            v[:] = _blend(v, g * g, o.beta2)
            rate, unbias = f32(lr / (1 - o.beta1 ** (k + 1))), f32(1 / (1 - o.beta2 ** (k + 1)))
            w -= rate * m / (np.sqrt(v * unbias + f32(o.eps_root)) + f32(o.eps))


def _blend(old: Float32s, new: Float32s, beta: float) -> Float32s:
    keep, take = f32(beta), f32(1 - beta)
    return old + take * (new - old) if take < 0.5 else keep * old + take * new


def _reduce(contributions: Sequence[Contribution]) -> Float32s:
    """Byte order of worker names; s_i = float32(w_i / sum of w); acc = s_0 g_0, acc = acc + s_i g_i."""
    ordered = sorted(contributions, key=lambda c: c.worker.encode())
    total = 0.0
    for contribution in ordered:
        total += contribution.weight
    accumulator = f32(ordered[0].weight / total) * ordered[0].gradient
    for contribution in ordered[1:]:
        accumulator = accumulator + f32(contribution.weight / total) * contribution.gradient
    return accumulator


def _sum_of_squares(layout: Layout, gradient: Float32s) -> float:
    """Per piece of 4,096 elements of one tensor: 16 lanes in float64, lanes in order; then pieces in order."""
    total = 0.0
    for start, stop in zip(layout.offsets, layout.offsets[1:], strict=False):
        for piece in range(start, stop, 4096):
            total += _piece(gradient[piece : min(piece + 4096, stop)])
    return total


def _piece(values: Float32s) -> float:
    padded = np.zeros(-(-values.size // 16) * 16, np.float64)
    padded[: values.size] = values
    lanes = np.zeros(16)
    for row in (padded * padded).reshape(-1, 16):
        lanes = lanes + row
    total = 0.0
    for lane in lanes:
        total += float(lane)
    return total
