"""Adadelta (Zeiler 2012, arXiv:1212.5701), as torch.optim.Adadelta.

v = rho v + (1 - rho) g^2; d = sqrt(u + eps) / sqrt(v + eps) g; u = rho u + (1 - rho) d^2; w -= lr d.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Adadelta

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: Adadelta, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, rho, 1 - rho, eps."""
    return lr, spec.rho, 1.0 - spec.rho, spec.eps


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, keep, take, eps = row
    v, u = slots[0, start:stop], slots[1, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        v_new = blend(v[i], g * g, keep, take)
        d = quotient(np.sqrt(u[i] + eps), np.sqrt(v_new + eps)) * g
        v[i] = v_new
        u[i] = blend(u[i], d * d, keep, take)
        w_new = w[i] - lr * d
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=Adadelta, slots=("square_avg", "acc_delta"), scalars=scalars, step=stepper(update))
