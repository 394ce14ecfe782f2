"""The real closing of rounds, shards and kernels without core, runtime or wire: for tests of arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optimd_server.core.closing import Closing
from optimd_server.core.effects import Contribution, Prepare
from optimd_server.optimizers import plan_of
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.threads import KernelThreads
from optimd_server.schedules import value_at
from optimd_server.state.shard import Gradient
from optimdpb.specs import Clip, Group, JobSpec, Layout, Optimizer, Sync, Tensor

Float32s = NDArray[np.float32]


@dataclass
class Part:
    """One worker's gradient in a round: float32, or the bits of bfloat16."""

    worker: str
    weight: float
    gradient: Gradient


def spec_of(
    optimizer: Optimizer, layout: Layout | int, clip: Clip | None = None, groups: Sequence[Group] = ()
) -> JobSpec:
    """A specification for one worker; a number is a layout of one tensor of so many elements."""
    if isinstance(layout, int):
        layout = Layout((Tensor("w", (layout,)),))
    return JobSpec(layout, optimizer, Sync(1), clip=clip, groups=tuple(groups))


class Trainer:
    """Parameters, slots, memories and k of a job, updated round by round."""

    def __init__(self, spec: JobSpec, start: Float32s, shards: int = 1, threads: int = 1) -> None:
        self.spec = spec
        self.plan = plan_of(spec)
        self.group = ShardGroup(spec, self.plan, shards, threads, 1 << 20)
        self.memories = self.plan.first_memories()
        self.step = 0
        self._pool = KernelThreads(threads) if threads > 1 else None
        self._run = self._pool.run if self._pool else KernelThreads.run_inline
        for shard in self.group.shards:
            shard.parameters[:] = start[shard.element_start : shard.element_stop]

    @property
    def parameters(self) -> Float32s:
        """A copy."""
        return self.group.flat_parameters()

    @property
    def slots(self) -> Float32s:
        """A copy, (slot, n)."""
        return self.group.flat_slots()

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.close()

    def update(self, gradient: Gradient) -> None:
        """A round of one worker."""
        self.round([Part("w0", 1.0, gradient)])

    def round(self, parts: Sequence[Part]) -> None:
        """A round of these gradients, in this order."""
        self.close_round(self.stage(parts))

    def stage(self, parts: Sequence[Part]) -> tuple[Contribution, ...]:
        """Copy gradients to where close_round() reads them."""
        total = sum(part.weight for part in parts)
        shares = [float(np.float32(part.weight / total)) for part in parts]
        for part in parts:
            for shard in self.group.shards:
                staged = shard.stage(part.worker, 1, part.gradient.dtype)
                staged[:] = part.gradient[shard.element_start : shard.element_stop]
        return tuple(Contribution(p.worker, 1, 1, s, s, self.step) for p, s in zip(parts, shares, strict=True))

    def close_round(self, contributions: tuple[Contribution, ...]) -> None:
        """Close a round over what is staged."""
        rate = value_at(self.spec.optimizer.lr, self.step)
        closing = Closing(self.plan, self.step, rate, self.step, self.memories, contributions)
        while isinstance(command := closing.command(), Prepare):
            closing.take(self.group.prepare(command, self._run))
        self.group.apply(command, self._run)
        self.memories = closing.memories
        self.step += 1
