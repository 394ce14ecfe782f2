"""SGD: w -= lr g, with g += weight_decay w (Robbins and Monro 1951). As torch.optim.SGD without momentum."""

from __future__ import annotations

import numpy as np
from optimdpb.specs import SGD

from optimd_server.optimizers.kernels import Float32s, inlined, larger
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: SGD, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, weight_decay."""
    return lr, spec.weight_decay


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, weight_decay = row
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        if weight_decay:
            g = g + weight_decay * w[i]
        w_new = w[i] - lr * g
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=SGD, slots=(), scalars=scalars, step=stepper(update))
