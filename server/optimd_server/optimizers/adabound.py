"""AdaBound and AMSBound (Luo et al. 2019, arXiv:1902.09843), in the form of the authors' code.

m and v as Adam; r = lr sqrt(1 - beta2^k) / (1 - beta1^k) / (sqrt(v) + eps), or of the largest v so far (amsbound);
w -= clip(r, f (1 - 1 / (gamma k + 1)), f (1 + 1 / (gamma k))) m, f = final_lr lr / lr_peak.

lr_peak is the largest value of the schedule (and of the group's multiplier 1). The paper divides lr by sqrt(k) too.
"""

from __future__ import annotations

import math

import numpy as np
from optimdpb.specs import AdaBound
from optimdpb.specs.checks import FLOAT32_MAX
from optimdpb.specs.schedules import as_schedule

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: AdaBound, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, 1 - beta2, rate, eps, lower bound, upper bound, whether the largest v counts."""
    t = k + 1
    peak = as_schedule("lr", spec.lr).peak()
    final = spec.final_lr * (lr / peak) if peak else 0.0
    lower, upper = final * (1.0 - 1.0 / (spec.gamma * t + 1.0)), final * (1.0 + 1.0 / (spec.gamma * t))
    upper = min(upper, FLOAT32_MAX)  # where gamma is next to nothing it bounds nothing
    rate = lr * math.sqrt(1.0 - spec.beta2**t) / (1.0 - spec.beta1**t)
    keeps = (spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2)
    return *keeps, rate, spec.eps, lower, upper, float(spec.amsbound)


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    keep1, take1, keep2, take2, rate, eps, lower, upper, amsbound = row
    m = slots[0, start:stop]
    v, u = slots[1, start:stop], slots[2, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        m[i] = m_new
        v[i] = v_new
        if amsbound:
            v_new = max(u[i], v_new)
            u[i] = v_new
        w_new = w[i] - min(max(rate / (np.sqrt(v_new) + eps), lower), upper) * m_new
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(
    spec_class=AdaBound, slots=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), scalars=scalars, step=stepper(update)
)
