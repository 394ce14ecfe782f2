"""Compile every kernel before the first worker needs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optimdpb.kernels import round_to_bfloat16

from optimd_server.optimizers import RULES
from optimd_server.optimizers.compensation import compensate_blocks
from optimd_server.optimizers.gradients import FLOAT32, Sources, reduce_and_scan_blocks, reduce_blocks
from optimd_server.optimizers.kernels import (
    BLOCK_ELEMENTS,
    magnitude_max,
    magnitude_max_of_blocks,
)
from optimd_server.optimizers.loops import piece_squares
from optimd_server.optimizers.rule import Rule

# What is compiled one after the other: what all rules share, then each rule.
GROUPS: tuple[Rule | None, ...] = (None, *RULES)
# What is compiled next, which one it is, from 1 on, and of how many.
Tell = Callable[[str, int, int], object]


def compile_kernels(tell: Tell = lambda *_: None) -> None:
    """Run each kernel once on one element, with the types of real use; compiled code is kept on disk."""
    for number, rule in enumerate(GROUPS, 1):
        tell("shared kernels" if rule is None else rule.spec_class.__name__, number, len(GROUPS))
        compile_rule(rule)


def compile_rule(rule: Rule | None) -> None:
    """The kernels of a rule; None: those that all rules share."""
    gradient, one = np.ones(1, np.float32), np.ones(1, np.float32)
    addresses, forms = np.array([gradient.ctypes.data], np.uint64), np.array([FLOAT32])
    sources = Sources(addresses, one, forms)
    blocks, pieces, rows = np.array([[0, 1, 0]], np.int64), np.array([0, 1], np.int64), np.zeros(1, np.int64)
    scratch = np.empty(BLOCK_ELEMENTS, np.float32)
    limits = np.array([[1.0, np.inf]], np.float32)
    if rule is None:
        magnitude_max(gradient)
        magnitude_max(gradient.view(np.uint16))
        magnitude_max_of_blocks(np.zeros(5, np.uint8))
        round_to_bfloat16(gradient, np.empty(1, np.uint16))
        reduce_blocks(np.empty(1, np.float32), *sources, blocks, 0, 1, scratch)
        places, largest = np.zeros(1, np.int64), np.zeros(1)
        reduce_and_scan_blocks(np.empty(1, np.float32), *sources, places, blocks, 0, 1, scratch, largest)
        piece_squares(*sources, pieces, 0, 1, scratch, np.zeros(1))
        compensate_blocks(one.copy(), np.float32(1.0), np.float32(1.0), one, one, blocks, 0, 1)
        return
    slots = np.zeros((len(rule.slots), 1), np.float32)
    ratio = () if rule.ratio is None else (1.0,)
    values = rule.scalars(
        rule.spec_class(lr=0.1), 0, 0.1, rule.remember(rule.spec_class(lr=0.1), 0, 0.1, rule.memory, (1.0, 1.0))
    )
    scalars = np.array([[*values, *ratio]], np.float32)
    if rule.measure is not None:
        sums = np.zeros((2, 1))
        rule.measure(one, slots, *sources, limits, pieces, rows, 0, 1, scratch, scalars, sums)
    rule.step(one.copy(), slots, *sources, limits, blocks, 0, 1, scratch, scalars)
