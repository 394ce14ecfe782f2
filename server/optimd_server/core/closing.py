"""Closing a round: which sums must be measured before its update can be applied, and what that update is."""

from __future__ import annotations

from optimd_server.core.effects import Apply, Contribution, Prepare
from optimd_server.optimizers import Memories, Plan
from optimd_server.optimizers.kernels import Float32s, Float64s


class Closing:
    """A round whose update is on its way: command() says what the shards do next, take() has what they measured.

    `memories` is what the rule remembers before the update, and from the Apply on after it; `k` counts the updates
    before this one.
    """

    def __init__(
        self,
        plan: Plan,
        step: int,
        learning_rate: float,
        k: int,
        memories: Memories,
        contributions: tuple[Contribution, ...],
    ) -> None:
        self.learning_rate = learning_rate
        self.contributions = contributions
        self.memories = memories
        self._plan = plan
        self._step = step
        self._k = k
        self._limits: Float32s | None = None
        self._sums: Float64s | None = None

    def command(self) -> Prepare | Apply:
        """Measure the norm if the clip needs it, then what the rule needs under that clip, then apply.

        Raises OverflowError where the update has no finite arithmetic in float32.
        """
        plan, rate = self._plan, self.learning_rate
        if self._limits is None and plan.clips_by_norm:
            return Prepare(self._step, self.contributions)
        if self._limits is None:
            self._limits = plan.limits(None)
        if self._sums is None and plan.measures(self.memories):
            scalars = plan.scalars(self._k, rate, self.memories, None)
            return Prepare(self._step, self.contributions, scalars, self._limits)
        self.memories = plan.remember(self._k, rate, self.memories, self._sums)
        scalars = plan.scalars(self._k, rate, self.memories, self._sums)
        return Apply(self._step, self.contributions, scalars, self._limits)

    def take(self, sums: Float64s) -> None:
        """The sums that the last Prepare asked for."""
        if self._limits is None:
            self._limits = self._plan.limits(sums[0])
        else:
            self._sums = sums
