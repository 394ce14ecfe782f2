"""AMSGrad (Reddi et al. 2018, arXiv:1904.09237), with g += weight_decay w: Adam with the largest v so far.

m and v as Adam; u = max(u, v); w -= lr m^ / (sqrt(u / (1 - beta2^k) + eps_root) + eps): torch.optim.Adam(amsgrad=True).
debias=False, the paper's and the lecture's form: w -= lr m / (sqrt(u + eps_root) + eps).
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import AMSGrad

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: AMSGrad, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, rate, 1 / bias correction of v, eps, eps_root."""
    correction1 = 1.0 - spec.beta1 ** (k + 1) if spec.debias else 1.0
    correction2 = 1.0 - spec.beta2 ** (k + 1) if spec.debias else 1.0
    keeps = (spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2)
    return spec.weight_decay, *keeps, lr / correction1, 1.0 / correction2, spec.eps, spec.eps_root


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    weight_decay, keep1, take1, keep2, take2, rate, unbias2, eps, eps_root = row
    m = slots[0, start:stop]
    v, u = slots[1, start:stop], slots[2, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        if weight_decay:
            g = g + weight_decay * w[i]
        m_new = blend(m[i], g, keep1, take1)
        v_new = blend(v[i], g * g, keep2, take2)
        u_new = max(u[i], v_new)
        m[i] = m_new
        v[i] = v_new
        u[i] = u_new
        w_new = w[i] - quotient(rate * m_new, np.sqrt(u_new * unbias2 + eps_root) + eps)
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(
    spec_class=AMSGrad, slots=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), scalars=scalars, step=stepper(update)
)
