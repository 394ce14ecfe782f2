"""What an update rule is to the rest of the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optimdpb.specs import Optimizer


@dataclass(frozen=True)
class Rule:
    """One update rule.

    spec_class: the specification it carries out.
    slots: names of its state vectors, each shaped like the parameters and zero at first.
    scalars(spec, k, lr): what one update needs beside vectors, in float64, cast to float32 once; k counts the updates
        before this one.
    step(parameters, slots, addresses, scales, clip_factor, blocks, first_block, stride, scratch, scalars): the kernel.
        Reduces the staged gradients and updates parameters (n) and slots (len(slots), n) in place, one pass, on every
        stride-th block. blocks: rows (start, stop, group); scalars: one row for each group, float32.
    """

    spec_class: type[Optimizer]
    slots: tuple[str, ...]
    scalars: Callable[[Any, int, float], tuple[float, ...]]
    step: Callable[..., None]
