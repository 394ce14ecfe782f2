"""Adagrad (Duchi et al. 2011), with g += weight_decay w: a += g^2; w -= lr g / (sqrt(a) + eps).

As torch.optim.Adagrad without lr_decay. The lecture's form is eps = 0; where a is 0 nothing moves.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Adagrad

from optimd_server.optimizers.kernels import Float32s, inlined, larger, quotient
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: Adagrad, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, weight_decay, eps, what a starts with."""
    return lr, spec.weight_decay, spec.eps, spec.initial_accumulator if k == 0 else 0.0


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, weight_decay, eps, initial = row
    a = slots[0, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        if weight_decay:
            g = g + weight_decay * w[i]
        a_new = (a[i] + initial) + g * g
        a[i] = a_new
        w_new = w[i] - lr * quotient(g, np.sqrt(a_new) + eps)
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=Adagrad, slots=("sum",), scalars=scalars, step=stepper(update))
