"""Adamax (Kingma and Ba 2015, section 7.1), as torch.optim.Adamax: Adam with the infinity norm.

m = beta1 m + (1 - beta1) g; u = max(beta2 u, |g| + eps); w -= lr / (1 - beta1^k) m / u.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Adamax

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: Adamax, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, bias-corrected lr, eps."""
    return spec.beta1, 1.0 - spec.beta1, spec.beta2, lr / (1.0 - spec.beta1 ** (k + 1)), spec.eps


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    keep1, take1, keep2, rate, eps = row
    m, u = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        m_new = blend(m[i], g, keep1, take1)
        u_new = max(keep2 * u[i], np.abs(g) + eps)
        m[i] = m_new
        u[i] = u_new
        w_new = w[i] - quotient(rate * m_new, u_new)
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=Adamax, slots=("exp_avg", "exp_inf"), scalars=scalars, step=stepper(update))
