"""SGDM: SGD with momentum, with g += weight_decay w.

heavy_ball (Polyak 1964): m = momentum m + (1 - dampening) g, the first m is g; w -= lr m. As torch.optim.SGD.
nesterov (Sutskever et al. 2013, at the look-ahead point): w -= lr (g + momentum m). As torch.optim.SGD.
ema (the lecture): m = momentum m + (1 - momentum) g, starting at 0; w -= lr m. Not in torch.
lr_inside (Sutskever's notation): m = momentum m + lr g; w -= m. Not in torch.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import SGDM

from optimd_server.optimizers.kernels import Float32s, inlined, larger
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: SGDM, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, coupled decay, decoupled decay, momentum, weight of the gradient, momentum of the look-ahead or 0."""
    if spec.form == "ema":
        return lr, spec.weight_decay, 0.0, spec.momentum, 1.0 - spec.momentum, 0.0
    if spec.form == "lr_inside":
        return 1.0, spec.weight_decay, 0.0, spec.momentum, lr, 0.0
    share = 1.0 if k == 0 else 1.0 - spec.dampening
    return lr, spec.weight_decay, 0.0, spec.momentum, share, spec.momentum if spec.nesterov else 0.0


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, coupled, decoupled, momentum, share, ahead = row
    m = slots[0, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        w_old = w[i]
        if coupled:
            g = g + coupled * w_old
        if decoupled:
            w_old = w_old - decoupled * w_old
        m_new = momentum * m[i] + share * g
        m[i] = m_new
        direction = m_new
        if ahead:
            direction = g + ahead * m_new
        w_new = w_old - lr * direction
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=SGDM, slots=("momentum",), scalars=scalars, step=stepper(update))
