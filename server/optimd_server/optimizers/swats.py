"""SWATS (Keskar and Socher 2017, arXiv:1712.07628): Adam that switches once to SGD with momentum.

Adam: m and v as Adam; d = lr sqrt(1 - beta2^k) / (1 - beta1^k) m / (sqrt(v) + eps); w -= d.
If d.g is not 0: gamma = d.d / d.g; lambda = beta2 lambda + (1 - beta2) gamma; Lambda = lambda / (1 - beta2^k).
Once k > 1, Lambda > 0 and |Lambda - gamma| < switch_tolerance, from the next update on, m starting anew at 0:
m = beta1 m + g; w -= (1 - beta1) Lambda lr / lr_switch m.

The dots are over the whole job, with the gradient as applied, so it switches as one. The paper leaves open what a
schedule does after the switch; here the rate learned follows it. Not in torch.

Memory: switched (0 or 1), lambda, Lambda, the k of the update that switched, lr of that update.
"""

from __future__ import annotations

import math

import numpy as np
from optimdpb.specs import SWATS

from optimd_server.optimizers.kernels import Float32s, Float64s, blend, inlined, lane_dot, larger, quotient
from optimd_server.optimizers.loops import measurer, stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: SWATS, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """Whether SGD, beta1 of m, 1 - beta1 or 1, beta2, 1 - beta2, rate, eps."""
    switched, _, rate_learned, switch_k, switch_lr = memory
    if switched and k > switch_k:
        keep = 0.0 if k == switch_k + 1 else spec.beta1
        return (
            1.0,
            keep,
            1.0,
            spec.beta2,
            1.0 - spec.beta2,
            (1.0 - spec.beta1) * rate_learned * lr / switch_lr,
            spec.eps,
        )
    rate = lr * math.sqrt(1.0 - spec.beta2 ** (k + 1)) / (1.0 - spec.beta1 ** (k + 1))
    return 0.0, spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2, rate, spec.eps


def remember(spec: SWATS, k: int, lr: float, memory: Memory, totals: Memory) -> Memory:
    """The running mean of the projected rate, and whether this was Adam's last update."""
    if memory[0]:
        return memory
    moved_squared, moved_gradient = totals
    if moved_gradient == 0.0:
        return memory
    gamma = moved_squared / moved_gradient
    mean = spec.beta2 * memory[1] + (1.0 - spec.beta2) * gamma
    unbiased = mean / (1.0 - spec.beta2 ** (k + 1))
    if k > 0 and unbiased > 0.0 and abs(unbiased - gamma) < spec.switch_tolerance:
        return 1.0, mean, unbiased, float(k), lr
    return 0.0, mean, unbiased, 0.0, 0.0


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    sgd, keep1, take1, keep2, take2, rate, eps = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    if sgd:
        for i in range(w.size):
            m_new = keep1 * m[i] + gradient[i]
            m[i] = m_new
            w_new = w[i] - rate * m_new
            w[i] = w_new
            largest = larger(largest, w_new)
    else:
        for i in range(w.size):
            g = gradient[i]
            m_new = blend(m[i], g, keep1, take1)
            v_new = blend(v[i], g * g, keep2, take2)
            m[i] = m_new
            v[i] = v_new
            w_new = w[i] - quotient(rate * m_new, np.sqrt(v_new) + eps)
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
    """d.d and d.g of one piece; see loops.measurer."""
    _, keep1, take1, keep2, take2, rate, eps = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    d = scratch
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        d[i] = quotient(rate * m_new, np.sqrt(v_new) + eps)
    return lane_dot(d, d, lanes), lane_dot(d, gradient, lanes)


RULE = Rule(
    spec_class=SWATS,
    slots=("exp_avg", "exp_avg_sq"),
    scalars=scalars,
    step=stepper(update),
    memory=(0.0, 0.0, 0.0, 0.0, 0.0),
    remember=remember,
    whole_job=True,
    measure=measurer(sums),
    measuring=lambda memory: not memory[0],
)
