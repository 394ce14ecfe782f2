"""SGD: w -= lr g, with g += weight_decay w (Robbins and Monro 1951). Equal to torch.optim.SGD without momentum."""

from __future__ import annotations

import numpy as np
from optimdpb.specs import SGD

from optimd_server.optimizers.kernels import TILE_ELEMENTS, Float32s, Int64s, UInt64s, kernel, reduce_tile
from optimd_server.optimizers.rule import Rule


def scalars(spec: SGD, k: int, lr: float) -> tuple[float, ...]:
    """lr, weight_decay."""
    return lr, spec.weight_decay


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
        lr, weight_decay = scalars[blocks[block, 2]]
        for start in range(blocks[block, 0], blocks[block, 1], TILE_ELEMENTS):
            stop = min(start + TILE_ELEMENTS, blocks[block, 1])
            gradient = reduce_tile(addresses, scales, clip_factor, start, stop, scratch)
            w = parameters[start:stop]
            for i in range(stop - start):
                g = gradient[i]
                if weight_decay != 0:
                    g = g + weight_decay * w[i]
                w[i] = w[i] - lr * g


RULE = Rule(spec_class=SGD, slots=(), scalars=scalars, step=step)
