"""Lion (Chen et al. 2023, arXiv:2302.06675): w -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay w);
then m = beta2 m + (1 - beta2) g. As optax.lion; not in torch.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Lion

from optimd_server.optimizers.kernels import Float32s, blend, inlined, larger
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: Lion, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """lr, lr weight_decay, beta1, 1 - beta1, beta2, 1 - beta2."""
    return lr, lr * spec.weight_decay, spec.beta1, 1.0 - spec.beta1, spec.beta2, 1.0 - spec.beta2


@inlined
def update(w: Float32s, gradient: Float32s, slots: Float32s, start: int, stop: int, row: Float32s) -> np.uint32:
    """The rule on a run of elements; see loops.stepper."""
    lr, decay, keep1, take1, keep2, take2 = row
    m = slots[0, start:stop]
    largest = np.uint32(0)
    for i in range(w.size):
        g = gradient[i]
        w_old = w[i]
        if decay:
            w_old = w_old - decay * w_old
        direction = np.float32(np.sign(blend(m[i], g, keep1, take1)))
        m[i] = blend(m[i], g, keep2, take2)
        w_new = w_old - lr * direction
        w[i] = w_new
        largest = larger(largest, w_new)
    return largest


RULE = Rule(spec_class=Lion, slots=("exp_avg",), scalars=scalars, step=stepper(update))
