"""SGDM: SGD with momentum, with g += weight_decay w.

heavy_ball (Polyak 1964): m = momentum m + (1 - dampening) g, the first m is g; w -= lr m. As torch.optim.SGD.
nesterov (Sutskever et al. 2013, at the look-ahead point): w -= lr (g + momentum m). As torch.optim.SGD.
ema (the lecture): m = momentum m + (1 - momentum) g, starting at 0; w -= lr m. Not in torch.
"""

from __future__ import annotations

import numpy as np
from optimdpb.specs import SGDM

from optimd_server.optimizers.kernels import TILE_ELEMENTS, Float32s, Int64s, UInt64s, kernel, reduce_tile
from optimd_server.optimizers.rule import Rule


def scalars(spec: SGDM, k: int, lr: float) -> tuple[float, ...]:
    """lr, weight_decay, momentum, weight of the gradient, momentum of the look-ahead or 0."""
    if spec.form == "ema":
        return lr, spec.weight_decay, spec.momentum, 1.0 - spec.momentum, 0.0
    share = 1.0 if k == 0 else 1.0 - spec.dampening
    return lr, spec.weight_decay, spec.momentum, share, spec.momentum if spec.nesterov else 0.0


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
        lr, weight_decay, momentum, share, ahead = scalars[blocks[block, 2]]
        for start in range(blocks[block, 0], blocks[block, 1], TILE_ELEMENTS):
            stop = min(start + TILE_ELEMENTS, blocks[block, 1])
            gradient = reduce_tile(addresses, scales, clip_factor, start, stop, scratch)
            w, m = parameters[start:stop], slots[0, start:stop]
            for i in range(stop - start):
                g = gradient[i]
                if weight_decay != 0:
                    g = g + weight_decay * w[i]
                m_new = momentum * m[i] + share * g
                m[i] = m_new
                direction = m_new
                if ahead != 0:
                    direction = g + ahead * m_new
                w[i] = w[i] - lr * direction


RULE = Rule(spec_class=SGDM, slots=("momentum",), scalars=scalars, step=step)
