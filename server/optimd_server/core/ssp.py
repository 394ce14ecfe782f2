"""Stale synchronous rounds: as Async, but who runs ahead waits for its answer.

clock(w) counts the outcomes of a live worker; one that joins starts at the slowest one's clock. Each worker's answer is
withheld while clock(w) - min over the live workers > staleness. A worker has one push in flight, so no clock is ever
more than staleness + 1 ahead of the slowest, and every worker that waits is exactly that far ahead.
(Ho et al. 2013, More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server.)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from optimdpb.specs import Async, Ssp

from optimd_server.core.asynchronous import AsyncRounds
from optimd_server.core.effects import Answered, Effect, Outcome
from optimd_server.core.events import Applied, Push
from optimd_server.core.members import Member
from optimd_server.core.rounds import named
from optimd_server.core.state import JobState


class SspRounds(AsyncRounds):
    """The rounds of one job under Ssp. `clocks`: of live workers; `withheld`: answers not told yet, by worker."""

    def __init__(self, state: JobState, consistency: Ssp) -> None:
        super().__init__(state, Async())
        self._bound = consistency.staleness
        self.clocks: dict[str, int] = {}
        self.withheld: dict[str, Answered] = {}
        self._slowest = 0
        self._workers_at: Counter[int] = Counter()

    def joined(self, member: Member) -> None:
        """A worker starts beside the slowest of the others."""
        self._drop_clock(member.worker)
        self._set_clock(member.worker, self._slowest)

    def epoch_over(self, member: Member, change: str) -> list[Effect]:
        """Nobody waits for it any more, and what it waits for itself it may know."""
        withheld = self.withheld.pop(member.worker, None)
        if not self.state.members.has(member.worker):  # superseded, its clock is its successor's already
            self._drop_clock(member.worker)
        return [withheld] if withheld is not None else []

    def go_on(self) -> None:
        """All start level: pushes that came behind the end moved clocks that nobody waited for."""
        for worker in list(self.clocks):
            self._set_clock(worker, self._slowest)

    def withholds(self, worker: str, epoch: int) -> bool:
        """Whether the last outcome of this epoch is there but not to be told yet."""
        withheld = self.withheld.get(worker)
        return withheld is not None and withheld.epoch == epoch

    def advance(self, now_s: float) -> list[Effect]:
        """Close rounds, then tell the answers that may be told."""
        return super().advance(now_s) + self._release()

    def applied(self, event: Applied) -> list[Effect]:
        """As AsyncRounds.applied; with the end of the job all waiting ends."""
        return super().applied(event) + self._release()

    def waiting_for(self, now_s: float) -> str:
        """Who waits for whom."""
        if not self.withheld:
            return super().waiting_for(now_s)
        members = self.state.members
        slowest = [member for member in members if self.clocks[member.worker] == self._slowest]
        for_whom = f"{named(slowest, now_s, members.lease_s)}, {self._bound + 1} behind"
        count = len(self.withheld)
        if count == 1:
            return f"{next(iter(self.withheld))} waits for {for_whom}"
        return f"{count} workers wait for {for_whom}"

    def saved(self) -> dict[str, Any]:
        """The clocks; which answers are withheld follows from them."""
        return {"clocks": dict(sorted(self.clocks.items()))}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over saved clocks of the workers that are live."""
        live = list(self.state.members)
        for member in live:
            self._set_clock(member.worker, int(saved["clocks"][member.worker]))
        self._slowest = min(self.clocks.values(), default=0)
        for member in live:
            account = self.state.ledger.find(member.worker, member.epoch)
            if self._is_ahead(member.worker) and account is not None and account.outcomes:
                self.withheld[member.worker] = Answered(member.worker, member.epoch, account.outcomes[-1])

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        super().check_invariants()
        assert set(self.clocks) == {member.worker for member in self.state.members}
        assert self._workers_at == Counter(self.clocks.values())
        assert not self.clocks or self._slowest == min(self.clocks.values())
        ahead = {worker for worker in self.clocks if self._is_ahead(worker)}
        assert set(self.withheld) == ahead, "withheld is the answers of those that are ahead"
        clocks = () if self.state.finished else self.clocks.values()
        assert all(clock <= self._slowest + self._bound + 1 for clock in clocks)

    def _settled(self, push: Push, outcome: Outcome) -> list[Effect]:
        (answer,) = super()._settled(push, outcome)
        assert isinstance(answer, Answered)
        if not self.state.members.is_live(push.worker, push.epoch):
            return [answer]
        self._set_clock(push.worker, self.clocks[push.worker] + 1)
        if not self._is_ahead(push.worker):
            return [answer]
        self.withheld[push.worker] = answer
        return []

    def _is_ahead(self, worker: str) -> bool:
        return not self.state.finished and self.clocks[worker] - self._slowest > self._bound

    def _release(self) -> list[Effect]:
        """The answers of those that are no longer ahead, in byte order of names."""
        if not self.withheld or self._is_ahead(next(iter(self.withheld))):
            return []  # all that wait are equally far ahead
        withheld, self.withheld = self.withheld, {}
        return [withheld[worker] for worker in sorted(withheld)]

    def _set_clock(self, worker: str, clock: int) -> None:
        previous = self.clocks.get(worker)
        self.clocks[worker] = clock
        self._workers_at[clock] += 1
        if previous is not None:
            self._leave_clock(previous)

    def _drop_clock(self, worker: str) -> None:
        clock = self.clocks.pop(worker, None)
        if clock is not None:
            self._leave_clock(clock)

    def _leave_clock(self, clock: int) -> None:
        """One worker fewer is at this clock; the slowest may be a later one now."""
        self._workers_at[clock] -= 1
        if self._workers_at[clock]:
            return
        del self._workers_at[clock]
        while self._workers_at and self._slowest not in self._workers_at:
            self._slowest += 1
