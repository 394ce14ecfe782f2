"""Yogi (Zaheer et al. 2018): Adam with v = v - (1 - beta2) sign(v - g^2) g^2.

Bias-corrected as optax.yogi, with m and v starting at 0; w -= lr m^ / (sqrt(v^) + eps). Not in torch.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Yogi

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: Yogi, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """beta1, 1 - beta1, 1 - beta2, bias-corrected lr, 1 / bias correction of v, eps."""
    correction1 = 1.0 - spec.beta1 ** (k + 1)
    correction2 = 1.0 - spec.beta2 ** (k + 1)
    return spec.beta1, 1.0 - spec.beta1, 1.0 - spec.beta2, lr / correction1, 1.0 / correction2, spec.eps


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    keep1, take1, take2, rate, unbias2, eps = row
    m, v = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        square = g * g
        m_new = blend(m[i], g, keep1, take1)
        v_new = v[i] - take2 * (np.float32(np.sign(v[i] - square)) * square)
        m[i] = m_new
        v[i] = v_new
        w_new = w[i] - quotient(rate * m_new, np.sqrt(v_new * unbias2) + eps)
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=Yogi, slots=("exp_avg", "exp_avg_sq"), scalars=scalars, step=stepper(update))
