"""What every consistency model shares: giving a push its outcome, closing a round on the shards, answering it.

A model says when a round closes and who waits: core.sync, core.asynchronous, core.ssp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from optimd_server.core import arithmetic
from optimd_server.core.arithmetic import Committed
from optimd_server.core.closing import Closing
from optimd_server.core.effects import (
    Answered,
    Contribution,
    DropStaging,
    Effect,
    Failed,
    Outcome,
    OutcomeRecord,
    Reason,
    RoundRecord,
    Status,
)
from optimd_server.core.events import Applied, Prepared, Push
from optimd_server.core.members import Member
from optimd_server.core.state import JobState

# Workers that a sentence about waiting names; the rest are counted.
NAMED_MAX = 10


class Rounds(ABC):
    """The rounds of one job. `state` is shared with the machine that owns it.

    `closing` is the round whose update is on its way, with the pushes behind it in `closing_pushes`, by worker,
    and the hyper-parameters that are scheduled in `closing_values`.
    """

    def __init__(self, state: JobState) -> None:
        self.state = state
        self.closing: Closing | None = None
        self.closing_pushes: dict[str, Committed] = {}
        self.closing_values: dict[str, float] = {}

    @abstractmethod
    def commit(self, committed: Committed) -> None:
        """Take a usable push."""

    @abstractmethod
    def reject(self, push: Push, reason: Reason, detail: str) -> list[Effect]:
        """Take an unusable push."""

    @abstractmethod
    def too_old(self, push: Push) -> tuple[Reason, str] | None:
        """Why a push of this lineage comes too late to be taken, if it does."""

    @abstractmethod
    def epoch_over(self, member: Member, change: str) -> list[Effect]:
        """An epoch is no longer live; what it committed counts as far as the model says."""

    @abstractmethod
    def advance(self, now_s: float) -> list[Effect]:
        """Open and close rounds as far as possible, none while the state is held."""

    @abstractmethod
    def waiting_for(self, now_s: float) -> str:
        """What the rounds wait for, in words; empty if for nothing."""

    @abstractmethod
    def start_over(self) -> list[Effect]:
        """The job has another lineage, no round is closing: what was to come on the old one is discarded."""

    @abstractmethod
    def unanswered(self) -> list[Committed]:
        """Usable pushes that have been taken and are in no closing round."""

    def joined(self, member: Member) -> None:  # noqa: B027 - most models need nothing
        """An epoch became live."""

    def go_on(self) -> None:  # noqa: B027 - most models need nothing
        """The job was finished and is not any more."""

    def extend(self, by_s: float) -> None:  # noqa: B027 - most models keep no time
        """Give back time that nobody could use."""

    def withholds(self, worker: str, epoch: int) -> bool:
        """Whether the last outcome of this epoch is there but not to be told yet."""
        return False

    def stands_still_for(self, worker: str, epoch: int) -> bool:
        """Whether no update is made before this live epoch speaks, leaves or expires."""
        return False

    def foreseen(self, pushes: Sequence[Push]) -> tuple[Contribution, ...]:
        """What the open round will be made of if just these pushes come, all usable; empty if that is not known."""
        return ()

    def counts(self, worker: str, epoch: int) -> bool:
        """Whether this live epoch is a member of the open round."""
        return True

    def saved(self) -> dict[str, Any]:
        """What the model itself remembers, as plain values; what is on its way is not part of it."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over saved values; members and ledger are restored already. Raises ValueError for foreign ones."""
        if saved:
            raise ValueError(f"expected nothing saved of {type(self).__name__}, got {sorted(saved)}")

    def settle(self, push: Push, status: Status, reason: Reason, detail: str) -> list[Effect]:
        """Store and send the outcome of a taken push that is not applied."""
        outcome = self.state.outcome(push, status, reason, detail)
        answer = self._settled(push, outcome)
        return [OutcomeRecord(push.worker, push.epoch, outcome), *answer, DropStaging(push.worker, push.epoch)]

    def settle_finished(self, push: Push) -> list[Effect]:
        """DISCARDED(FINISHED)."""
        return self.settle(push, Status.DISCARDED, Reason.FINISHED, f"the job finished at step {self.state.step}")

    def settle_lineage_changed(self, push: Push) -> list[Effect]:
        """DISCARDED(LINEAGE_CHANGED)."""
        detail = f"its base lineage is {push.base.lineage[:32]!r}, the job's is {self.state.lineage!r}"
        return self.settle(push, Status.DISCARDED, Reason.LINEAGE_CHANGED, detail)

    def _settled(self, push: Push, outcome: Outcome) -> list[Effect]:
        """Every outcome comes by here, once. Returns its answer, if it may be told now."""
        self.state.record(push, outcome)
        return [Answered(push.worker, push.epoch, outcome)]

    def _close(self, pushes: dict[str, Committed], factor: float = 1.0) -> list[Effect]:
        """Start the update that these pushes make, each scaled by `factor`; or find the round void."""
        state = self.state
        parts = arithmetic.contributions(pushes.values(), state.spec.reduction, factor)
        culprits = arithmetic.too_large(parts, pushes)
        if not parts or culprits:
            return self._void(pushes, culprits)
        rate, values = state.learning_rate(), state.clock.values(state.step)
        plan = state.plan_under(values)
        self.closing = Closing(plan, state.step, rate, state.rule_count, state.memories, parts)
        self.closing_pushes, self.closing_values = pushes, values
        return self._go_on(self.closing)

    def _go_on(self, closing: Closing) -> list[Effect]:
        """The next command of the closing round; or find that its update has no finite arithmetic, which voids it."""
        try:
            return [closing.command()]
        except OverflowError as error:
            problem = str(error)
        pushes, self.closing, self.closing_pushes = self.closing_pushes, None, {}
        self.state.counters.rounds_void += 1
        detail = f"the round was void: {problem}"
        if self.state.sweeping and self.state.range_test is not None:
            self.state.range_test.finish("diverged", problem)
        return [
            effect
            for name in sorted(pushes)
            for effect in self.settle(pushes[name].push, Status.DISCARDED, Reason.ROUND_VOID, detail)
        ]

    def _void(self, pushes: dict[str, Committed], culprits: set[str]) -> list[Effect]:
        """Answer everybody, leave t where it is."""
        self.state.counters.rounds_void += 1
        effects: list[Effect] = []
        for name in sorted(pushes):
            committed = pushes[name]
            if name in culprits:
                bound = arithmetic.ROUND_MAGNITUDE_MAX
                detail = f"its largest element {committed.magnitude_max:g} takes the round above {bound:g}"
                effects += self.settle(committed.push, Status.REJECTED, Reason.TOO_LARGE, detail)
            else:
                detail = f"the round was void: the gradient of {few(sorted(culprits))} is too large"
                effects += self.settle(committed.push, Status.DISCARDED, Reason.ROUND_VOID, detail)
        return effects

    def prepared(self, event: Prepared) -> list[Effect]:
        """The shards have measured: go on with what comes next."""
        assert self.closing is not None, f"Prepared({event.step}) while no round is closing"
        assert event.step == self.state.step, f"Prepared({event.step}) at step {self.state.step}"
        self.closing.take(event.sums)
        return self._go_on(self.closing)

    def applied(self, event: Applied) -> list[Effect]:
        """Every shard is at t + 1: so is the job. Answer the round."""
        state, closing, pushes = self.state, self.closing, self.closing_pushes
        assert closing is not None, f"Applied({event.step}) while no round is closing"
        assert event.step == state.step, f"Applied({event.step}) at step {state.step}"
        if not event.finite and not state.sweeping:
            return [Failed(_spoiled(event.step, closing.learning_rate))]
        self.closing, self.closing_pushes = None, {}
        state.step += 1
        state.rule_count += 1
        state.memories = closing.memories
        outcomes: list[tuple[str, int, Outcome]] = []
        answers: list[Effect] = []
        for part in closing.contributions:
            push = pushes[part.worker].push
            outcome = state.outcome_applied(push, event.step, closing.learning_rate)
            outcomes.append((push.worker, push.epoch, outcome))
            answers += [*self._settled(push, outcome), DropStaging(push.worker, push.epoch)]
        state.last_round = RoundRecord(
            event.step,
            closing.learning_rate,
            state.rule_count - 1,
            state.memories,
            arithmetic.mean_loss(pushes.values()),
            closing.contributions,
            tuple(outcomes),
            tuple(sorted(self.closing_values.items())),
        )
        state.heard(state.last_round, [committed.push.loss for committed in pushes.values()])
        if not event.finite and state.range_test is not None:
            state.range_test.finish("diverged", _spoiled(event.step, closing.learning_rate))
        return [state.last_round, *answers]

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        assert (self.closing is None) == (not self.closing_pushes)
        for committed in [*self.unanswered(), *self.closing_pushes.values()]:
            account = self.state.ledger.find(committed.push.worker, committed.push.epoch)
            assert account is not None
            assert account.pending
            assert account.last_seq == committed.push.seq


def _spoiled(step: int, learning_rate: float) -> str:
    return f"the update of step {step}, at the learning rate {learning_rate:g}, left a parameter infinite or NaN"


def named(members: list[Member], now_s: float, lease_s: float) -> str:
    """Workers with when they were last heard of; the first few, and how many more."""
    return few([f"{member.worker} ({_sign(member, now_s, lease_s)})" for member in members])


def few(words: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(words) - NAMED_MAX
    return ", ".join([*words[:NAMED_MAX], *([f"{more} more"] if more > 0 else [])])


def _sign(member: Member, now_s: float, lease_s: float) -> str:
    """When a worker was last heard of; if its heart beats and nothing else comes, that."""
    if now_s - member.pushed_s <= lease_s:
        return f"last seen {now_s - member.seen_s:.1f} s ago, lease {lease_s:g} s"
    idle = "" if member.idle_s is None else f", idle {member.idle_s:.0f} s"
    return f"alive, no push for {now_s - member.pushed_s:.0f} s{idle}; lease {lease_s:g} s"
