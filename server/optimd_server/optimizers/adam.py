"""Adam (Kingma and Ba 2015, arXiv:1412.6980), with g += weight_decay w.

m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
w -= lr / (1 - beta1^k) m / (sqrt(v / (1 - beta2^k) + eps_root) + eps), k = 1 for the first update.

As torch.optim.Adam where eps_root = 0. The lecture's form is eps = 0, eps_root = 1e-8.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import Adam

from optimd_server.optimizers.kernels import TILE_ELEMENTS, Float32s, Int64s, UInt64s, blend, kernel, reduce_tile
from optimd_server.optimizers.rule import Rule


def scalars(spec: Adam, k: int, lr: float) -> tuple[float, ...]:
    """weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, bias-corrected lr, 1 / bias correction of v, eps, eps_root."""
    correction1 = 1.0 - spec.beta1 ** (k + 1)
    correction2 = 1.0 - spec.beta2 ** (k + 1)
    return (
        spec.weight_decay,
        spec.beta1,
        1.0 - spec.beta1,
        spec.beta2,
        1.0 - spec.beta2,
        lr / correction1,
        1.0 / correction2,
        spec.eps,
        spec.eps_root,
    )


@kernel
def step(
    parameters: Float32s,
    slots: Float32s,
    addresses: UInt64s,
    scales: Float32s,
    clip_factor: np.float32,
    blocks: Int64s,
    first_block: int,
    stride: int,
    scratch: Float32s,
    scalars: Float32s,
) -> None:
    """See Rule.step."""
    for block in range(first_block, blocks.shape[0], stride):
        weight_decay, keep1, take1, keep2, take2, rate, unbias2, eps, eps_root = scalars[blocks[block, 2]]
        for start in range(blocks[block, 0], blocks[block, 1], TILE_ELEMENTS):
            stop = min(start + TILE_ELEMENTS, blocks[block, 1])
            gradient = reduce_tile(addresses, scales, clip_factor, start, stop, scratch)
            w, m, v = parameters[start:stop], slots[0, start:stop], slots[1, start:stop]
            for i in range(stop - start):
                g = gradient[i]
                if weight_decay != 0:
                    g = g + weight_decay * w[i]
                m_new = blend(m[i], g, keep1, take1)
                v_new = blend(v[i], g * g, keep2, take2)
                m[i] = m_new
                v[i] = v_new
                w[i] = w[i] - rate * m_new / (np.sqrt(v_new * unbias2 + eps_root) + eps)


RULE = Rule(spec_class=Adam, slots=("exp_avg", "exp_avg_sq"), scalars=scalars, step=step)
