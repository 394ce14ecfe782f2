"""Adam (Kingma and Ba 2015, arXiv:1412.6980), with g += weight_decay w.

m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
w -= lr / (1 - beta1^k) m / (sqrt(v / (1 - beta2^k) + eps_root) + eps), k = 1 for the first update.

As torch.optim.Adam where eps_root = 0. The lecture's form is eps = 0, eps_root = 1e-8.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Adam, AdamW

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def moments(spec: Adam | AdamW, k: int, lr: float) -> tuple[float, ...]:
    """beta1, 1 - beta1, beta2, 1 - beta2, bias-corrected lr, 1 / bias correction of v, eps, eps_root."""
    correction1 = 1.0 - spec.beta1 ** (k + 1)
    correction2 = 1.0 - spec.beta2 ** (k + 1)
    keeps = (spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2)
    return *keeps, lr / correction1, 1.0 / correction2, spec.eps, spec.eps_root


def scalars(spec: Adam, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """Coupled decay, decoupled decay, then moments()."""
    return spec.weight_decay, 0.0, *moments(spec, k, lr)


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    coupled, decoupled, keep1, take1, keep2, take2, rate, unbias2, eps, eps_root = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        w_old = w[i]
        if coupled:
            g = g + coupled * w_old
        if decoupled:
            w_old = w_old - decoupled * w_old
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        m[i] = m_new
        v[i] = v_new
        w_new = w_old - quotient(rate * m_new, np.sqrt(v_new * unbias2 + eps_root) + eps)
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=Adam, slots=("exp_avg", "exp_avg_sq"), scalars=scalars, step=stepper(update))
