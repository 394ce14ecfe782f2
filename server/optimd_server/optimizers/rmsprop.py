"""RMSProp (Tieleman and Hinton 2012): v = alpha v + (1 - alpha) g^2; d = g / (sqrt(v) + eps); w -= lr d.

centered (Graves 2013, arXiv:1308.0850): a = alpha a + (1 - alpha) g; v - a^2 stands under the root.
momentum: b = momentum b + d; w -= lr b. As torch.optim.RMSprop; v_init="first" (the lecture, with eps = 0) is not.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import RMSProp

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: RMSProp, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, keep and take of v, alpha, 1 - alpha, eps, momentum, whether centered."""
    first = k == 0 and spec.v_init == "first"
    keep, take = (0.0, 1.0) if first else (spec.alpha, 1.0 - spec.alpha)
    return lr, keep, take, spec.alpha, 1.0 - spec.alpha, spec.eps, spec.momentum, float(spec.centered)


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, keep, take, alpha, beta, eps, momentum, centered = row
    v = slots[0, start:stop]
    a, b = slots[1, start:stop], slots[2, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        v_new = blend(v[i], g * g, keep, take)
        v[i] = v_new
        if centered:
            a_new = blend(a[i], g, alpha, beta)
            a[i] = a_new
            v_new = max(v_new - a_new * a_new, np.float32(0.0))
        d = quotient(g, np.sqrt(v_new) + eps)
        if momentum:
            d = momentum * b[i] + d
            b[i] = d
        w_new = w[i] - lr * d
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=RMSProp, slots=("square_avg", "grad_avg", "momentum"), scalars=scalars, step=stepper(update))
