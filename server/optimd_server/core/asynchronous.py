"""Async rounds: every push is its own round, in the order of the commits."""

from __future__ import annotations

from collections import deque

import numpy as np
from optimdpb.specs import Async

from optimd_server.core.arithmetic import Committed
from optimd_server.core.effects import Effect, Reason, Status
from optimd_server.core.events import Applied, Push
from optimd_server.core.members import Member
from optimd_server.core.rounds import Rounds
from optimd_server.core.state import JobState


class AsyncRounds(Rounds):
    """The rounds of one job under Async. `queue`: usable pushes that wait for the update on its way."""

    def __init__(self, state: JobState, consistency: Async) -> None:
        super().__init__(state)
        self._staleness_max = consistency.staleness_max
        self._inverse = consistency.staleness_scale == "inverse"
        self._compensates = consistency.delay_compensation is not None
        self.queue: deque[Committed] = deque()

    def commit(self, committed: Committed) -> None:
        """Its round comes as soon as those before it are over."""
        push = committed.push
        self.state.ledger.take(push.worker, push.epoch, push.seq)
        self.queue.append(committed)

    def reject(self, push: Push, reason: Reason, detail: str) -> list[Effect]:
        """Answered at once."""
        self.state.ledger.take(push.worker, push.epoch, push.seq)
        return self.settle(push, Status.REJECTED, reason, detail)

    def too_old(self, push: Push) -> tuple[Reason, str] | None:
        """Stale above staleness_max, or where delay compensation no longer knows the parameters it was taken at."""
        staleness = self.state.step - push.base.step
        if self._staleness_max is not None and staleness > self._staleness_max:
            return Reason.STALE, f"its staleness is {staleness}, above staleness_max = {self._staleness_max}"
        if self._compensates and push.base.step < self.state.restored_step:
            known = f"parameters are known from step {self.state.restored_step} on"
            return Reason.STALE, f"its base step is {push.base.step}; since the server started again {known}"
        return None

    def epoch_over(self, member: Member, change: str) -> list[Effect]:
        """What was committed counts."""
        return []

    def advance(self, now_s: float) -> list[Effect]:
        """Close round after round until one takes time or none is left."""
        effects: list[Effect] = []
        while self.queue and not self.closing and not self.state.finished and not self.state.held:
            committed = self.queue.popleft()
            old = self.too_old(committed.push)
            if old is not None:
                effects += self.settle(committed.push, Status.DISCARDED, *old)
                continue
            staleness = self.state.step - committed.push.base.step
            factor = float(np.float32(1.0 / (1.0 + staleness))) if self._inverse else 1.0
            effects += self._close({committed.push.worker: committed}, factor)
        return effects

    def applied(self, event: Applied) -> list[Effect]:
        """As Rounds.applied; at the end of the job what still waits is discarded."""
        effects = super().applied(event)
        while self.state.finished and self.queue:
            effects += self.settle_finished(self.queue.popleft().push)
        return effects

    def start_over(self) -> list[Effect]:
        """Nothing of the queue counts."""
        queue, self.queue = self.queue, deque()
        return [effect for committed in queue for effect in self.settle_lineage_changed(committed.push)]

    def waiting_for(self, now_s: float) -> str:
        """Nothing, or anybody."""
        if self.state.finished or self.closing or self.queue or len(self.state.members):
            return ""
        return f"step {self.state.step} waits for a worker: 0 live"

    def unanswered(self) -> list[Committed]:
        """The queue."""
        return list(self.queue)

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        super().check_invariants()
        assert self.state.held or not (self.queue and self.closing is None), "a push waits for nothing"
