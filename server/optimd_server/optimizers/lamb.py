"""LAMB (You et al. 2020, arXiv:1904.00962): Adam with a rate for each tensor by its norms.

m and v as Adam; u = m^ / (sqrt(v^) + eps) + weight_decay w; w -= lr r u, r = |w| / |u|, or 1 where a norm is 0.
As optax.lamb. Not in torch.
"""

from __future__ import annotations

import math

import numpy as np
from optimdpb.specs import LAMB

from optimd_server.optimizers.kernels import Float32s, Float64s, blend, inlined, lane_dot, larger, quotient
from optimd_server.optimizers.loops import measurer, stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: LAMB, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, 1 - beta2, 1 / bias corrections of m and v, eps, weight_decay, lr; then the ratio."""
    unbias1, unbias2 = 1.0 / (1.0 - spec.beta1 ** (k + 1)), 1.0 / (1.0 - spec.beta2 ** (k + 1))
    keeps = (spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2)
    return *keeps, unbias1, unbias2, spec.eps, spec.weight_decay, lr


def ratio(spec: LAMB, totals: Memory) -> float:
    """The trust ratio r, from |w|^2 and |u|^2 of one tensor."""
    w_squared, u_squared = totals
    return math.sqrt(w_squared) / math.sqrt(u_squared) if w_squared and u_squared else 1.0


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    keep1, take1, keep2, take2, unbias1, unbias2, eps, weight_decay, lr, ratio = row
    rate = lr * ratio
    m, v = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        m[i] = m_new
        v[i] = v_new
        u = quotient(unbias1 * m_new, np.sqrt(v_new * unbias2) + eps) + weight_decay * w[i]
        w_new = w[i] - rate * u
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
    keep1, take1, keep2, take2, unbias1, unbias2, eps, weight_decay, _, _ = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    u = scratch
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        u[i] = quotient(unbias1 * m_new, np.sqrt(v_new * unbias2) + eps) + weight_decay * w[i]
    return lane_dot(w, w, lanes), lane_dot(u, u, lanes)


RULE = Rule(
    spec_class=LAMB,
    slots=("exp_avg", "exp_avg_sq"),
    scalars=scalars,
    step=stepper(update),
    measure=measurer(sums),
    ratio=ratio,
)
