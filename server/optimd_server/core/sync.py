"""Sync rounds: the live workers of a moment speak once each, then one update is made of what they said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from optimdpb.specs import Sync

from optimd_server.core.arithmetic import Committed, contributions
from optimd_server.core.effects import Contribution, DropStaging, Effect, Pending, Reason, Status
from optimd_server.core.events import Applied, Prepared, Push
from optimd_server.core.members import Member
from optimd_server.core.rounds import Rounds, few, named
from optimd_server.core.state import JobState


@dataclass
class Rejected:
    """A member's unusable word for the round."""

    push: Push
    reason: Reason
    detail: str


@dataclass
class Round:
    """`members`: epoch by name at the opening; `awaited`: those that are live and have not spoken.

    `pushes` and `rejected`: words spoken, by name.
    """

    members: dict[str, int]
    opened_s: float
    awaited: set[str] = field(init=False)
    pushes: dict[str, Committed] = field(default_factory=dict)
    rejected: dict[str, Rejected] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.awaited = set(self.members)

    def awaits(self, worker: str, epoch: int) -> bool:
        """Whether this epoch is a member that is live and has not spoken."""
        return worker in self.awaited and self.members[worker] == epoch


class SyncRounds(Rounds):
    """The rounds of one job under Sync.

    `held`: pushes that no open round counts, by worker. `left`: workers whose leaving made the job smaller and whose
    place nobody has taken since, in order.
    """

    def __init__(self, state: JobState, consistency: Sync) -> None:
        super().__init__(state)
        self.consistency = consistency
        self.round: Round | None = None
        self.held: dict[str, Committed] = {}
        self.left: list[str] = []

    def commit(self, committed: Committed) -> None:
        """Into the open round if its worker is a member that has not spoken, else held."""
        push = committed.push
        self.state.ledger.take(push.worker, push.epoch, push.seq)
        if self.round is not None and not self.closing and self.round.awaits(push.worker, push.epoch):
            self._speak(self.round, committed)
        else:
            self.held[push.worker] = committed

    def reject(self, push: Push, reason: Reason, detail: str) -> list[Effect]:
        """A member's is answered at the close of the round, any other now."""
        self.state.ledger.take(push.worker, push.epoch, push.seq)
        if self.round is not None and not self.closing and self.round.awaits(push.worker, push.epoch):
            self.round.awaited.discard(push.worker)
            self.round.rejected[push.worker] = Rejected(push, reason, detail)
            return [Pending(), DropStaging(push.worker, push.epoch)]
        return self.settle(push, Status.REJECTED, reason, detail)

    def too_old(self, push: Push) -> tuple[Reason, str] | None:
        """Late if the job has moved on."""
        if push.base.step < self.state.step:
            return Reason.LATE, f"its base step is {push.base.step}, the job is at {self.state.step}"
        return None

    def epoch_over(self, member: Member, change: str) -> list[Effect]:
        """What the epoch committed to the open round stays; what it held is discarded."""
        if change == "left" and len(self.state.members) < self.consistency.workers - len(self.left):
            self.left.append(member.worker)
        if self.round is not None and self.round.members.get(member.worker) == member.epoch:
            self.round.awaited.discard(member.worker)
        held = self.held.get(member.worker)
        if held is None or held.push.epoch != member.epoch:
            return []
        del self.held[member.worker]
        verb = change if change in ("left", "expired") else f"was {change}"
        detail = f"its worker {verb} before it became a member"
        return self.settle(held.push, Status.DISCARDED, Reason.NOT_A_MEMBER, detail)

    def joined(self, member: Member) -> None:
        """It has its own place again, or that of who left first; once all had left, another run begins."""
        if len(self.left) == self.consistency.workers:
            self.left, self.state.opened = [], False
        if member.worker in self.left:
            self.left.remove(member.worker)
        while self.left and len(self.state.members) > self.consistency.workers - len(self.left):
            self.left.pop(0)

    def extend(self, by_s: float) -> None:
        """The open round's timeout waits as long."""
        if self.round is not None:
            self.round.opened_s += by_s

    def counts(self, worker: str, epoch: int) -> bool:
        """Whether this live epoch is a member of the open round."""
        return self.round is not None and self.round.members.get(worker) == epoch

    def advance(self, now_s: float) -> list[Effect]:
        """Open and close rounds as far as possible, but none before those who are broken are set aside."""
        effects: list[Effect] = []
        while not self.closing and not self.state.broken and not self.state.held:
            if self.round is None:
                if self.state.finished or len(self.state.members) < self._workers_to_open():
                    break
                effects += self._open(now_s)
            elif self._may_close(self.round, now_s):
                effects += self._close(self.round.pushes)
                if not self.closing:
                    effects += self._end_round()
            else:
                break
        return effects

    def prepared(self, event: Prepared) -> list[Effect]:
        """As Rounds.prepared; a round that is void is over."""
        effects = super().prepared(event)
        return effects if self.closing else effects + self._end_round()

    def applied(self, event: Applied) -> list[Effect]:
        """As Rounds.applied; then everybody else of the round is answered."""
        effects = super().applied(event)
        if self.closing:
            return effects
        effects += self._end_round()
        if self.state.finished:
            held, self.held = self.held, {}
            for name in sorted(held):
                effects += self.settle_finished(held[name].push)
        return effects

    def start_over(self) -> list[Effect]:
        """The open round is given up, with what is held."""
        given_up, self.held = self.unanswered(), {}  # a worker may be there twice, under an older epoch in the round
        effects: list[Effect] = []
        for committed in sorted(given_up, key=lambda committed: (committed.push.worker, committed.push.epoch)):
            effects += self.settle_lineage_changed(committed.push)
        return effects + (self._end_round() if self.round is not None else [])

    def waiting_for(self, now_s: float) -> str:
        """What the rounds wait for, in words; empty if for nothing."""
        state, opened, needed = self.state, self.round, self._members_min
        if state.finished or self.closing:
            return ""
        if len(self.left) == self.consistency.workers:
            return f"all workers have left: round {state.step} opens with {self.consistency.workers} workers"
        live = f"{len(state.members)} live" + (f", {few(self.left)} left" if self.left else "")
        if opened is None:
            return f"round {state.step} opens with {self._workers_to_open()} workers: {live}"
        if len(state.members) < needed:
            return f"round {state.step} closes with {needed} workers: {live}"
        awaited = [member for member in state.members if member.worker in opened.awaited]
        which = named(awaited, now_s, state.members.lease_s)
        timeout_s = self.consistency.round_timeout_s
        may_close_early = timeout_s is not None or self.consistency.quorum is not None
        missing = self._pushes_enough - len(opened.pushes) if may_close_early else len(awaited)
        if timeout_s is not None and now_s - opened.opened_s < timeout_s:
            left_s = timeout_s - (now_s - opened.opened_s)
            return f"round {state.step} waits {left_s:.1f} s more for {which}"
        if 0 < missing < len(awaited):
            return f"round {state.step} waits for {missing} of {len(awaited)}: {which}"
        return f"round {state.step} waits for {which}"

    def stands_still_for(self, worker: str, epoch: int) -> bool:
        """If the open round closes with it alone. The end of a range test would be a change, too."""
        model, state = self.consistency, self.state
        if model.quorum is not None or model.round_timeout_s is not None:
            return False
        if state.range_test is not None and state.range_test.active:
            return False
        awaited = self.round is not None and not self.closing and self.round.awaits(worker, epoch)
        return awaited or state.finished

    def foreseen(self, pushes: Sequence[Push]) -> tuple[Contribution, ...]:
        """The words spoken and these, if nobody else is awaited."""
        opened = self.round
        if opened is None or self.closing or self.state.held:
            return ()
        if {push.worker: push.epoch for push in pushes} != {name: opened.members[name] for name in opened.awaited}:
            return ()
        words = [*opened.pushes.values(), *(Committed(push, 0.0) for push in pushes)]
        return contributions(words, self.state.spec.reduction)

    def unanswered(self) -> list[Committed]:
        """Pushes held, and those in an open round."""
        in_round = self.round.pushes.values() if self.round is not None and not self.closing else ()
        return [*self.held.values(), *in_round]

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        super().check_invariants()
        assert self.closing is None or self.round is not None
        assert not (self.state.finished and self.round)
        opened = self.round
        if opened is None:
            return
        assert set(opened.pushes) <= set(opened.members)
        assert set(opened.rejected) <= set(opened.members)
        assert not set(opened.pushes) & set(opened.rejected)
        spoken = set(opened.pushes) | set(opened.rejected)
        live = {name for name, epoch in opened.members.items() if self.state.members.is_live(name, epoch)}
        assert opened.awaited == live - spoken, "awaited is who is live and has not spoken"

    def saved(self) -> dict[str, Any]:
        """Who left; the open round is not part of it."""
        return {"left": list(self.left)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over who left; snapshots of before it was remembered do not say."""
        self.left = [str(name) for name in saved.get("left", ())]

    def _workers_to_open(self) -> int:
        model = self.consistency
        return max(1, self._members_min if self.state.opened else model.workers_left(len(self.left)))

    @property
    def _members_min(self) -> int:
        return self.consistency.members_min(len(self.left))

    @property
    def _pushes_enough(self) -> int:
        return self.consistency.pushes_enough(len(self.left))

    def _open(self, now_s: float) -> list[Effect]:
        self.state.opened = True
        opened = self.round = Round({member.worker: member.epoch for member in self.state.members}, now_s)
        effects: list[Effect] = []
        held, self.held = self.held, {}
        for name in sorted(held):
            push = held[name].push
            late = self.too_old(push)
            if late is None and opened.awaits(push.worker, push.epoch):
                self._speak(opened, held[name])
            else:
                effects += self.settle(push, Status.DISCARDED, *(late or (Reason.LATE, "its round has closed")))
        return effects

    def _speak(self, opened: Round, committed: Committed) -> None:
        opened.awaited.discard(committed.push.worker)
        opened.pushes[committed.push.worker] = committed

    def _may_close(self, opened: Round, now_s: float) -> bool:
        if opened.awaited and not self._may_close_early(opened, now_s):
            return False
        return len(self.state.members) >= self._members_min

    def _may_close_early(self, opened: Round, now_s: float) -> bool:
        timeout_s, quorum = self.consistency.round_timeout_s, self.consistency.quorum
        early = quorum is not None if timeout_s is None else now_s - opened.opened_s >= timeout_s
        return early and len(opened.pushes) >= self._pushes_enough

    def _end_round(self) -> list[Effect]:
        """There is no round any more: those that were rejected in it learn so."""
        closed, self.round = self.round, None
        assert closed is not None
        effects: list[Effect] = []
        for name in sorted(closed.rejected):
            word = closed.rejected[name]
            effects += self.settle(word.push, Status.REJECTED, word.reason, word.detail)
        return effects
