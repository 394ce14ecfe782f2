"""What an update rule is to the rest of the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optimdpb.specs import Optimizer

# What a rule remembers beside its slots: a few float64 for each group.
Memory = tuple[float, ...]


def _remember_nothing(spec: Any, k: int, lr: float, memory: Memory, totals: Memory) -> Memory:
    return memory


@dataclass(frozen=True)
class Rule:
    """One update rule.

    spec_class: the specification it carries out.
    slots: names of its state vectors, each shaped like the parameters and zero at first.
    scalars(spec, k, lr, memory): what one update needs beside vectors, in float64, cast to float32 once; k counts the
        updates before this one.
    step(parameters, slots, *sources, limits, blocks, first, last, scratch, scalars): the kernel.
        Reduces and clips the staged gradients and updates parameters (n) and slots (len(slots), n) in place, one pass,
        on blocks first <= b < last. blocks: rows (start, stop, row); scalars and limits: one row for each row number,
        float32; a row of limits is (clip factor, bound of an element). Returns the largest |parameter| that it wrote,
        infinity if one is not finite, 0 for none.
    memory, remember(spec, k, lr, memory, totals): the first memory, and the one that an update leaves and uses.
    whole_job: the memory follows the job's own specification alone, one for all groups.
    measure(parameters, slots, *sources, limits, pieces, rows, first, last, scratch, scalars, sums): kernel of
        a rule that needs sums. Writes sums[0, p] and sums[1, p] for pieces first <= p < last whose row is not negative;
        changes no state. scratch: room for two pieces.
    measuring(memory): whether the next update needs the measure.
    ratio(spec, totals): for a rule with a trust ratio per tensor, from the two sums over one tensor; it is the last
        scalar. Without it the sums are over the job and go to remember().
    """

    spec_class: type[Optimizer]
    slots: tuple[str, ...]
    scalars: Callable[[Any, int, float, Memory], tuple[float, ...]]
    step: Callable[..., float]
    memory: Memory = ()
    remember: Callable[[Any, int, float, Memory, Memory], Memory] = _remember_nothing
    whole_job: bool = False
    measure: Callable[..., None] | None = None
    measuring: Callable[[Memory], bool] = lambda memory: True
    ratio: Callable[[Any, Memory], float] | None = None
