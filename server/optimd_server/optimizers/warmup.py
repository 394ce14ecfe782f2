"""Compile every kernel before the first worker needs it."""

from __future__ import annotations

import numpy as np
from optimdpb.specs import SGD, SGDM, Adam, Optimizer

from optimd_server.optimizers import rule_for
from optimd_server.optimizers.kernels import TILE_ELEMENTS, magnitude_max, piece_squares, reduce_blocks

_EXAMPLES: tuple[Optimizer, ...] = (SGD(0.1), SGDM(0.1), Adam(0.1))


def compile_kernels() -> None:
    """Run each kernel once on one element, with the types of real use; compiled code is kept on disk."""
    gradient = np.ones(1, np.float32)
    addresses = np.array([gradient.ctypes.data], np.uint64)
    scales = np.ones(1, np.float32)
    blocks = np.array([[0, 1, 0]], np.int64)
    scratch = np.empty((1, TILE_ELEMENTS), np.float32)
    magnitude_max(gradient)
    reduce_blocks(np.empty(1, np.float32), addresses, scales, blocks, 0, 1, scratch[0])
    piece_squares(gradient, np.array([0, 1], np.int64), 0, 1, np.zeros(1))
    for optimizer in _EXAMPLES:
        rule = rule_for(optimizer)
        slots = np.zeros((len(rule.slots), 1), np.float32)
        scalars = np.array([rule.scalars(optimizer, 0, 0.1)], np.float32)
        factor = np.float32(1.0)
        rule.step(np.ones(1, np.float32), slots, addresses, scales, factor, blocks, 0, 1, scratch[0], scalars)
