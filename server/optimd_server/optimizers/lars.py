"""LARS (You et al. 2017, arXiv:1708.03888): SGD with momentum and a rate for each tensor by its norms.

u = g + weight_decay w; m = momentum m + lr r u, r = trust_coefficient |w| / |u|, or 1 where a norm is 0; w -= m.
As optax.lars (whose norms are of u, decay included; the paper adds the two norms). Not in torch.
"""

from __future__ import annotations

import math

import numpy as np
from optimdpb.specs import LARS

from optimd_server.optimizers.kernels import Float32s, Float64s, inlined, lane_dot, larger
from optimd_server.optimizers.loops import measurer, stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: LARS, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, weight_decay, momentum; then the ratio."""
    return lr, spec.weight_decay, spec.momentum


def ratio(spec: LARS, totals: Memory) -> float:
    """The trust ratio r, from |w|^2 and |u|^2 of one tensor."""
    w_squared, u_squared = totals
    return spec.trust_coefficient * math.sqrt(w_squared) / math.sqrt(u_squared) if w_squared and u_squared else 1.0


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, weight_decay, momentum, ratio = row
    rate = lr * ratio
    m = slots[0, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        u = gradient[i]
        if weight_decay:
            u = u + weight_decay * w[i]
        m_new = momentum * m[i] + rate * u
        m[i] = m_new
        w_new = w[i] - m_new
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


@inlined
def sums(
    w: Float32s,
    gradient: Float32s,
    slots: Float32s,
    start: int,
    stop: int,
    row: Float32s,
    scratch: Float32s,
    lanes: Float64s,
) -> tuple[float, float]:
    """|w|^2 and |u|^2 of one piece; see loops.measurer."""
    _, weight_decay, _, _ = row
    u = scratch
    for i in range(w.size):
        u[i] = gradient[i] + weight_decay * w[i]
    return lane_dot(w, w, lanes), lane_dot(u, u, lanes)


RULE = Rule(
    spec_class=LARS, slots=("momentum",), scalars=scalars, step=stepper(update), measure=measurer(sums), ratio=ratio
)
