"""Sync rounds: when a round opens and closes, what it applies, who is answered.

Theory of operation. A round is open or closing, or there is none.

    none     -> open     enough workers are live: `workers` for the first round, `workers_min` for later ones. The live
                         workers become its members. Pushes held from non-members are looked at again.
    open     -> closing  every member has a committed push, an unusable one, or is gone, with workers_min live, and
                         there is something to apply. Prepare goes out for each sum that clip and rule need, then
                         Apply.
    open     -> none     the same without anything to apply, or with a sum too large: the round is void, t stays.
    closing  -> none     Applied came back: t becomes t + 1, outcomes go out.

A push of a worker that is no member of the open round is held: at the next opening it counts if t has not moved, else
it is DISCARDED(LATE). A REJECTED push of a member is its word for the round and is answered with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optimdpb.errors import NotServed
from optimdpb.specs import Sync

from optimd_server.core import arithmetic
from optimd_server.core.arithmetic import Committed
from optimd_server.core.closing import Closing
from optimd_server.core.effects import (
    Answered,
    DropStaging,
    Effect,
    Outcome,
    Pending,
    Reason,
    RoundRecord,
    Status,
)
from optimd_server.core.events import Applied, Prepared, Push
from optimd_server.core.state import JobState


@dataclass
class Rejected:
    """A member's unusable word for the round."""

    push: Push
    reason: Reason
    detail: str


@dataclass
class Round:
    """`members`: epoch by name at the opening. `pushes` and `rejected`: words spoken, by name."""

    members: dict[str, int]
    pushes: dict[str, Committed] = field(default_factory=dict)
    rejected: dict[str, Rejected] = field(default_factory=dict)

    def awaits(self, worker: str, epoch: int) -> bool:
        """Whether this epoch is a member that has not spoken."""
        return self.members.get(worker) == epoch and worker not in self.pushes and worker not in self.rejected

    def awaited(self) -> list[str]:
        """Members that have not spoken, in byte order of names."""
        return [name for name in sorted(self.members) if self.awaits(name, self.members[name])]


class SyncRounds:
    """The rounds of one job under Sync. `state` is shared with the machine that owns it."""

    def __init__(self, state: JobState, consistency: Sync) -> None:
        for option in ("quorum", "round_timeout_s"):
            if getattr(consistency, option) is not None:
                raise NotServed(f"option {option} of Sync")
        self.state = state
        self.consistency = consistency
        self.round: Round | None = None
        self.closing: Closing | None = None
        self.held: dict[str, Committed] = {}

    def commit(self, committed: Committed) -> None:
        """Take a usable push: into the open round if its worker is a member that has not spoken, else held."""
        push = committed.push
        self.state.ledger.take(push.worker, push.epoch, push.seq)
        if self.round is not None and not self.closing and self.round.awaits(push.worker, push.epoch):
            self.round.pushes[push.worker] = committed
        else:
            self.held[push.worker] = committed

    def reject(self, push: Push, reason: Reason, detail: str) -> list[Effect]:
        """Take an unusable push: a member's is answered at the close of the round, any other now."""
        self.state.ledger.take(push.worker, push.epoch, push.seq)
        if self.round is not None and not self.closing and self.round.awaits(push.worker, push.epoch):
            self.round.rejected[push.worker] = Rejected(push, reason, detail)
            return [Pending()]
        return self.state.settle(push, Status.REJECTED, reason, detail)

    def epoch_over(self, worker: str, epoch: int, change: str) -> list[Effect]:
        """What the epoch committed to the open round stays; what it held is discarded."""
        held = self.held.get(worker)
        if held is None or held.push.epoch != epoch:
            return []
        del self.held[worker]
        detail = f"its worker {change} before it became a member"
        return self.state.settle(held.push, Status.DISCARDED, Reason.NOT_A_MEMBER, detail)

    def advance(self) -> list[Effect]:
        """Open and close rounds as far as possible."""
        effects: list[Effect] = []
        while not self.closing:
            if self.round is None:
                if self.state.finished or len(self.state.members) < self._workers_to_open():
                    break
                effects += self._open()
            elif self._may_close(self.round):
                effects += self._close(self.round)
            else:
                break
        return effects

    def _workers_to_open(self) -> int:
        return self.consistency.members_min if self.state.opened else self.consistency.workers

    def _open(self) -> list[Effect]:
        self.state.opened = True
        self.round = Round(members={member.worker: member.epoch for member in self.state.members})
        effects: list[Effect] = []
        held, self.held = self.held, {}
        for name in sorted(held):
            push = held[name].push
            if push.base.step == self.state.step and self.round.awaits(push.worker, push.epoch):
                self.round.pushes[push.worker] = held[name]
            else:
                effects += self.state.settle_late(push)
        return effects

    def _may_close(self, open_round: Round) -> bool:
        members = self.state.members
        if len(members) < self.consistency.members_min:
            return False
        return not any(members.is_live(name, open_round.members[name]) for name in open_round.awaited())

    def _close(self, open_round: Round) -> list[Effect]:
        parts = arithmetic.contributions(open_round.pushes.values(), self.state.spec.reduction)
        culprits = arithmetic.too_large(parts, open_round.pushes)
        if not parts or culprits:
            return self._void(open_round, culprits)
        state = self.state
        rate = state.learning_rate()
        self.closing = Closing(state.plan, state.step, rate, state.rule_count, state.memories, parts)
        return [self.closing.command()]

    def _void(self, open_round: Round, culprits: set[str]) -> list[Effect]:
        """Answer everybody, leave t where it is."""
        self.round = None
        self.state.counters.rounds_void += 1
        effects: list[Effect] = []
        for name in sorted(open_round.pushes):
            committed = open_round.pushes[name]
            if name in culprits:
                bound = arithmetic.ROUND_MAGNITUDE_MAX
                detail = f"its largest element {committed.magnitude_max:g} takes the round above {bound:g}"
                effects += self.state.settle(committed.push, Status.REJECTED, Reason.TOO_LARGE, detail)
            else:
                detail = f"the round was void: the gradient of {', '.join(sorted(culprits))} is too large"
                effects += self.state.settle(committed.push, Status.DISCARDED, Reason.ROUND_VOID, detail)
        return effects + self._answer_rejected(open_round)

    def _answer_rejected(self, closed: Round) -> list[Effect]:
        effects: list[Effect] = []
        for name in sorted(closed.rejected):
            word = closed.rejected[name]
            effects += self.state.settle(word.push, Status.REJECTED, word.reason, word.detail)
        return effects

    def prepared(self, event: Prepared) -> list[Effect]:
        """The shards have measured: go on with what comes next."""
        assert self.closing is not None, f"Prepared({event.step}) while no round is closing"
        assert event.step == self.state.step, f"Prepared({event.step}) at step {self.state.step}"
        self.closing.take(event.sums)
        return [self.closing.command()]

    def applied(self, event: Applied) -> list[Effect]:
        """Every shard is at t + 1: so is the job. Answer the round."""
        state, closed, closing = self.state, self.round, self.closing
        assert closed is not None, f"Applied({event.step}) without a round"
        assert closing is not None, f"Applied({event.step}) while no round is closing"
        assert event.step == state.step, f"Applied({event.step}) at step {state.step}"
        self.round = self.closing = None
        state.step += 1
        state.rule_count += 1
        state.memories = closing.memories
        outcomes: list[tuple[str, int, Outcome]] = []
        answers: list[Effect] = []
        for part in closing.contributions:
            push = closed.pushes[part.worker].push
            outcome = replace(
                state.outcome(push, Status.APPLIED, Reason.NONE, ""),
                applied_step=event.step,
                learning_rate=closing.learning_rate,
                staleness=event.step - push.base.step,
            )
            state.ledger.settle(push.worker, push.epoch, outcome)
            outcomes.append((push.worker, push.epoch, outcome))
            answers += [Answered(push.worker, push.epoch, outcome), DropStaging(push.worker, push.epoch)]
        state.counters.applied += len(outcomes)
        state.last_round = RoundRecord(
            event.step,
            closing.learning_rate,
            state.rule_count - 1,
            state.memories,
            arithmetic.mean_loss(closed.pushes.values()),
            closing.contributions,
            tuple(outcomes),
        )
        answers += self._answer_rejected(closed)
        if state.finished:
            held, self.held = self.held, {}
            for name in sorted(held):
                answers += state.settle_finished(held[name].push)
        return [state.last_round, *answers]

    def waiting_for(self, now_s: float) -> str:
        """What the rounds wait for, in words; empty if for nothing."""
        state = self.state
        if state.finished or self.closing:
            return ""
        if self.round is None:
            return f"round {state.step} opens with {self._workers_to_open()} workers: {len(state.members)} live"
        seen = [
            f"{member.worker} (last seen {now_s - member.seen_s:.1f} s ago, lease {state.members.lease_s:g} s)"
            for member in state.members
            if self.round.awaits(member.worker, member.epoch)
        ]
        if seen:
            return f"round {state.step} waits for {', '.join(seen)}"
        return f"round {state.step} closes with {self.consistency.members_min} workers: {len(state.members)} live"

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        assert self.closing is None or self.round is not None
        assert not (self.state.finished and self.round)
        spoken = list(self.held.values())
        if self.round is not None:
            assert set(self.round.pushes) <= set(self.round.members)
            assert set(self.round.rejected) <= set(self.round.members)
            assert not set(self.round.pushes) & set(self.round.rejected)
            spoken += self.round.pushes.values()
        for committed in spoken:
            account = self.state.ledger.find(committed.push.worker, committed.push.epoch)
            assert account is not None
            assert account.pending
            assert account.last_seq == committed.push.seq
