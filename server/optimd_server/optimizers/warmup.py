"""Compile every kernel before the first worker needs it."""

from __future__ import annotations

import numpy as np

from optimd_server.optimizers import RULES
from optimd_server.optimizers.kernels import TILE_ELEMENTS, magnitude_max, piece_squares, reduce_blocks


def compile_kernels() -> None:
    """Run each kernel once on one element, with the types of real use; compiled code is kept on disk."""
    gradient, one = np.ones(1, np.float32), np.ones(1, np.float32)
    addresses = np.array([gradient.ctypes.data], np.uint64)
    blocks, pieces, rows = np.array([[0, 1, 0]], np.int64), np.array([0, 1], np.int64), np.zeros(1, np.int64)
    scratch = np.empty((2, TILE_ELEMENTS), np.float32)
    limits = np.array([[1.0, np.inf]], np.float32)
    magnitude_max(gradient)
    reduce_blocks(np.empty(1, np.float32), addresses, one, blocks, 0, 1, scratch[0])
    piece_squares(addresses, one, pieces, 0, 1, scratch[0], np.zeros(1))
    for rule in RULES:
        slots = np.zeros((len(rule.slots), 1), np.float32)
        ratio = () if rule.ratio is None else (1.0,)
        values = rule.scalars(
            rule.spec_class(lr=0.1), 0, 0.1, rule.remember(rule.spec_class(lr=0.1), 0, 0.1, rule.memory, (1.0, 1.0))
        )
        scalars = np.array([[*values, *ratio]], np.float32)
        if rule.measure is not None:
            sums = np.zeros((2, 1))
            rule.measure(one, slots, addresses, one, limits, pieces, rows, 0, 1, scratch, scalars, sums)
        rule.step(one.copy(), slots, addresses, one, limits, blocks, 0, 1, scratch[0], scalars)
