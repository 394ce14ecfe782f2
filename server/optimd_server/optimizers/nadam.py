"""NAdam (Dozat 2016), as torch.optim.NAdam: Adam with Nesterov momentum.

mu_k = beta1 (1 - 0.96^(k momentum_decay) / 2), P_k = mu_1 ... mu_k; m and v as Adam;
w -= lr ((1 - mu_k) / (1 - P_k) g + mu_{k+1} / (1 - P_{k+1}) m) / (sqrt(v^) + eps).

Memory: P_k.
"""

from __future__ import annotations

import math

import numpy as np
from optimdpb.specs import NAdam

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: NAdam, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, 1 - beta2, rate of g, rate of m, 1 / bias correction of v, eps."""
    (product,) = memory
    mu_next = _mu(spec, k + 2)
    rate_g = lr * (1.0 - _mu(spec, k + 1)) / (1.0 - product)
    rate_m = lr * mu_next / (1.0 - product * mu_next)
    keeps = (spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2)
    return *keeps, rate_g, rate_m, 1.0 / (1.0 - spec.beta2 ** (k + 1)), spec.eps


def remember(spec: NAdam, k: int, lr: float, memory: Memory, totals: Memory) -> Memory:
    """P_{k+1} of P_k."""
    (product,) = memory
    return (product * _mu(spec, k + 1),)


def _mu(spec: NAdam, k: int) -> float:
    return spec.beta1 * (1.0 - 0.5 * math.pow(0.96, k * spec.momentum_decay))


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    keep1, take1, keep2, take2, rate_g, rate_m, unbias2, eps = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        m[i] = m_new
        v[i] = v_new
        w_new = w[i] - quotient(rate_g * g + rate_m * m_new, np.sqrt(v_new * unbias2) + eps)
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(
    spec_class=NAdam,
    slots=("exp_avg", "exp_avg_sq"),
    scalars=scalars,
    step=stepper(update),
    memory=(1.0,),
    remember=remember,
)
