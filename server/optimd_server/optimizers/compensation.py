"""DC-ASGD (Zheng et al. 2017, arXiv:1609.08326): a stale gradient corrected towards the parameters of now.

g' = g + lambda g * g * (w(t) - w(base)), written as g (1 + lambda g (w(t) - w(base))) with the factor held within 0 and
2: where the correction is larger than the gradient, the first-order expansion it comes from says nothing.
"""

from __future__ import annotations

import numpy as np

from optimd_server.optimizers.kernels import Float32s, Int64s, kernel


@kernel
def compensate_blocks(
    gradient: Float32s,
    scale: np.float32,
    strength: np.float32,
    parameters: Float32s,
    base: Float32s,
    blocks: Int64s,
    first: int,
    last: int,
) -> None:
    """gradient = scale g' over blocks first <= b < last, in place; strength: lambda; vectors: a shard's, flat."""
    for block in range(first, last):
        for i in range(blocks[block, 0], blocks[block, 1]):
            moved = parameters[i] - base[i]
            factor = np.float32(1.0) + strength * (gradient[i] * moved)
            factor = min(max(factor, np.float32(0.0)), np.float32(2.0))
            gradient[i] = scale * (gradient[i] * factor)
