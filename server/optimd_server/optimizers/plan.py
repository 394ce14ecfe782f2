"""How a rule is laid over the tensors of one job: groups, rows of scalars, clipping, sums. Pure.

Elements that share their scalars and limits share a row: one for each group, or one for each tensor where a trust ratio
or a clip by tensor needs it. Frozen tensors and buffers have none.
"""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import NotServed
from optimdpb.specs import Clip, ClipGlobalNorm, ClipTensorNorm, ClipValue, JobSpec, Optimizer
from optimdpb.specs.checks import FLOAT32_MAX

from optimd_server.optimizers.kernels import PIECE_ELEMENTS, Float32s, Float64s
from optimd_server.optimizers.rule import Memory, Rule

NO_ROW = -1
# A gradient near the smallest float32 asks for a ratio near the largest: lr times that must stay a number.
RATIO_MAX = 1e30
Memories = tuple[Memory, ...]


class Plan:
    """The rule of one job over its tensors.

    rule; optimizer: its hyper-parameters; tensor_rows: the row of each tensor, or NO_ROW; buffers: whether each tensor
    is a buffer; row_count; piece_starts: the first piece of each tensor, and the number of pieces at the end.
    """

    def __init__(self, spec: JobSpec, rules: tuple[Rule, ...]) -> None:
        self.rule = _rule_for(spec.optimizer, rules)
        self.buffers = tuple(tensor.kind == "buffer" for tensor in spec.layout.tensors)
        self._clip: Clip | None = spec.clip
        self.optimizer = spec.optimizer
        self._groups = spec.groups
        self._specs = self._of_groups()
        self._multipliers = (1.0, *(group.lr_multiplier for group in spec.groups))
        frozen = (False, *(group.frozen for group in spec.groups))
        groups = [0 if place is None else place + 1 for place in spec.tensor_groups]
        trained = [not frozen[g] and not buffer for g, buffer in zip(groups, self.buffers, strict=True)]
        self._by_tensor = self.rule.ratio is not None or isinstance(spec.clip, ClipTensorNorm)
        rows = list(range(len(groups))) if self._by_tensor else groups
        self.tensor_rows = tuple(row if t else NO_ROW for row, t in zip(rows, trained, strict=True))
        self._row_groups = groups if self._by_tensor else list(range(len(self._specs)))
        self._unlimited = np.tile(np.array([1.0, np.inf], np.float32), (self.row_count, 1))
        counts = (-(-tensor.elements // PIECE_ELEMENTS) for tensor in spec.layout.tensors)
        self.piece_starts = (0, *itertools.accumulate(counts))

    def under(self, optimizer: Optimizer) -> Plan:
        """The same plan with other hyper-parameters of the same rule; groups keep their own."""
        plan = copy.copy(self)
        plan.optimizer = optimizer
        plan._specs = plan._of_groups()
        return plan

    def _of_groups(self) -> tuple[Optimizer, ...]:
        return (self.optimizer, *(group.over(self.optimizer) for group in self._groups))

    @property
    def row_count(self) -> int:
        """Number of rows of scalars and of limits."""
        return len(self._row_groups)

    @property
    def clips_by_norm(self) -> bool:
        """Whether limits() needs the sums of squares of the reduced gradient."""
        return isinstance(self._clip, ClipGlobalNorm | ClipTensorNorm)

    def first_memories(self) -> Memories:
        """What the rule remembers before the first update, for each group."""
        return (self.rule.memory,) * len(self._specs)

    def measures(self, memories: Memories) -> bool:
        """Whether the next update needs the rule's own sums."""
        return self.rule.measure is not None and self.rule.measuring(memories[0])

    def limits(self, piece_squares: Float64s | None) -> Float32s:
        """Rows (clip factor, bound of an element), float32. piece_squares: (piece,), None where no norm is needed."""
        if self._clip is None:
            return self._unlimited
        limits = self._unlimited.copy()
        match self._clip:
            case ClipValue(value):
                limits[:, 1] = value
            case ClipGlobalNorm(norm_max):
                assert piece_squares is not None
                limits[:, 0] = clip_factor(self._total(piece_squares), norm_max)
            case ClipTensorNorm(norm_max):
                assert piece_squares is not None
                for tensor, row in enumerate(self.tensor_rows):
                    if row != NO_ROW:
                        limits[row, 0] = clip_factor(in_order(self._of_tensor(piece_squares, tensor)), norm_max)
        return limits

    def remember(self, k: int, lr: float, memories: Memories, sums: Float64s | None) -> Memories:
        """What the rule remembers after the update that uses it. sums: (2, piece), None if they were not measured."""
        totals: Memory = ()
        if sums is not None and self.rule.ratio is None:
            totals = (self._total(sums[0]), self._total(sums[1]))
        if self.rule.whole_job:
            return (self.rule.remember(self.optimizer, k, lr, memories[0], totals),) * len(memories)
        return tuple(
            self.rule.remember(spec, k, lr * multiplier, memory, totals)
            for spec, multiplier, memory in zip(self._specs, self._multipliers, memories, strict=True)
        )

    def scalars(self, k: int, lr: float, memories: Memories, sums: Float64s | None) -> Float32s:
        """The rows of scalars of the update after k others, float32. sums: as for remember().

        Raises OverflowError if one of them is none that float32 can hold.
        """
        values = [
            self.rule.scalars(spec, k, lr * multiplier, memory)
            for spec, multiplier, memory in zip(self._specs, self._multipliers, memories, strict=True)
        ]
        for row in values:
            if not all(map(FLOAT32_MAX.__ge__, map(abs, row))):
                raise OverflowError(f"at the learning rate {lr:g} the rule's numbers exceed float32")
        if self.rule.ratio is None:
            return np.array([values[group] for group in self._row_groups], np.float32)
        rows = [(*values[group], self._ratio(tensor, sums)) for tensor, group in enumerate(self._row_groups)]
        return np.array(rows, np.float32)

    def _ratio(self, tensor: int, sums: Float64s | None) -> float:
        """The trust ratio of a tensor, at most RATIO_MAX; 0 while it is not measured."""
        if sums is None or self.tensor_rows[tensor] == NO_ROW:
            return 0.0
        assert self.rule.ratio is not None
        totals = in_order(self._of_tensor(sums[0], tensor)), in_order(self._of_tensor(sums[1], tensor))
        return min(self.rule.ratio(self._specs[self._row_groups[tensor]], totals), RATIO_MAX)

    def _of_tensor(self, pieces: Float64s, tensor: int) -> Float64s:
        return pieces[self.piece_starts[tensor] : self.piece_starts[tensor + 1]]

    def _total(self, pieces: Float64s) -> float:
        """Sum over all pieces that are trained, in order."""
        return in_order(np.where(self.piece_rows() == NO_ROW, 0.0, pieces))

    def piece_rows(self) -> NDArray[np.int64]:
        """The row of each piece."""
        counts = [stop - start for start, stop in itertools.pairwise(self.piece_starts)]
        return np.repeat(np.array(self.tensor_rows, np.int64), counts)


def in_order(values: Float64s) -> float:
    """Sum of float64, one after another: no pairwise summation, whose order depends on how many there are."""
    return float(np.add.accumulate(values)[-1]) if values.size else 0.0


def clip_factor(square: float, norm_max: float) -> float:
    """float32(norm_max / norm) where norm = sqrt(square) exceeds norm_max, else 1."""
    norm = math.sqrt(square)
    return float(np.float32(norm_max / norm)) if norm > norm_max else 1.0


def _rule_for(spec: Optimizer, rules: tuple[Rule, ...]) -> Rule:
    for rule in rules:
        if type(spec) is rule.spec_class:
            return rule
    raise NotServed(f"optimizer {type(spec).__name__}")
