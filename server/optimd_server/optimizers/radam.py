"""RAdam (Liu et al. 2020, arXiv:1908.03265), as torch.optim.RAdam: Adam, rectified while few gradients are seen.

rho_k = rho_inf - 2 k beta2^k / (1 - beta2^k), rho_inf = 2 / (1 - beta2) - 1; m and v as Adam.
rho_k > 5 (the paper: 4): w -= lr r m^ sqrt(1 - beta2^k) / (sqrt(v) + eps),
r = sqrt((rho_k - 4) (rho_k - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_k)). Else: w -= lr m^.
"""

from __future__ import annotations

import math

import numpy as np
from optimdpb.specs import RAdam

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule

RHO_MIN = 5.0


def scalars(spec: RAdam, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, 1 - beta2, rate, eps, whether v counts."""
    t = k + 1
    correction2 = 1.0 - spec.beta2**t
    rate = lr / (1.0 - spec.beta1**t)
    rho_inf = 2.0 / (1.0 - spec.beta2) - 1.0
    rho = rho_inf - 2.0 * t * spec.beta2**t / correction2
    rectified = rho > RHO_MIN
    if rectified:
        grown = (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)
        rate *= math.sqrt(grown * correction2)
    return spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2, rate, spec.eps, float(rectified)


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    keep1, take1, keep2, take2, rate, eps, rectified = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        m[i] = m_new
        v[i] = v_new
        move = rate * m_new
        if rectified:
            move = quotient(move, np.sqrt(v_new) + eps)
        w_new = w[i] - move
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=RAdam, slots=("exp_avg", "exp_avg_sq"), scalars=scalars, step=stepper(update))
