"""What a job is at one moment, and how a push gets its outcome."""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.specs import JobSpec

from optimd_server.core.creation import Creation
from optimd_server.core.effects import (
    Answered,
    DropStaging,
    Effect,
    Outcome,
    OutcomeRecord,
    Reason,
    RoundRecord,
    Status,
)
from optimd_server.core.events import Push
from optimd_server.core.ledger import Ledger
from optimd_server.core.members import Members
from optimd_server.optimizers import plan_of
from optimd_server.schedules import value_at

HISTORY_KEPT = 1000


@dataclass
class Counters:
    """Counts since the job became ready."""

    applied: int = 0
    discarded: int = 0
    rejected: int = 0
    duplicates: int = 0
    rounds_void: int = 0


@dataclass(frozen=True)
class HistoryEntry:
    """One change of the job itself: "ready", "restored", "restored with loss"; where the job was after it."""

    change: str
    lineage: str
    step: int


class JobState:
    """Specification, version, members and outcomes of one job.

    `rule_count` counts the rule's updates, `memories` is what it remembers beside its slots. `opened`: whether a round
    ever was. `history` is bounded.
    """

    def __init__(self, spec: JobSpec, lease_s: float) -> None:
        self.spec = spec
        self.lineage = ""
        self.step = 0
        self.rule_count = 0
        self.plan = plan_of(spec)
        self.memories = self.plan.first_memories()
        self.counters = Counters()
        self.opened = False
        self.last_round: RoundRecord | None = None
        self.history: list[HistoryEntry] = []
        self.members = Members(lease_s)
        self.ledger = Ledger()
        self.creation = Creation(lease_s)

    def note(self, change: str) -> None:
        """Add to the history."""
        self.history = [*self.history, HistoryEntry(change, self.lineage, self.step)][-HISTORY_KEPT:]

    @property
    def finished(self) -> bool:
        """Whether t has reached steps_max."""
        return self.spec.steps_max is not None and self.step >= self.spec.steps_max

    def learning_rate(self) -> float:
        """lr(t), the rate of the coming update."""
        return value_at(self.spec.optimizer.lr, self.step)

    def outcome(self, push: Push, status: Status, reason: Reason, detail: str) -> Outcome:
        """The outcome of a push as things stand now."""
        rank = self.members.ranks()[push.worker] if self.members.is_live(push.worker, push.epoch) else -1
        staleness = self.step - push.base.step if push.base.lineage == self.lineage else 0
        rate = self.learning_rate()
        return Outcome(push.seq, status, reason, detail, self.step, rate, staleness, rank, len(self.members))

    def settle(self, push: Push, status: Status, reason: Reason, detail: str) -> list[Effect]:
        """Store and send the outcome of a pending push that is not applied."""
        outcome = self.outcome(push, status, reason, detail)
        self.ledger.settle(push.worker, push.epoch, outcome)
        if status is Status.REJECTED:
            self.counters.rejected += 1
        else:
            self.counters.discarded += 1
        return [
            OutcomeRecord(push.worker, push.epoch, outcome),
            Answered(push.worker, push.epoch, outcome),
            DropStaging(push.worker, push.epoch),
        ]

    def settle_late(self, push: Push) -> list[Effect]:
        """DISCARDED(LATE)."""
        detail = f"its base step is {push.base.step}, the job is at {self.step}"
        return self.settle(push, Status.DISCARDED, Reason.LATE, detail)

    def settle_finished(self, push: Push) -> list[Effect]:
        """DISCARDED(FINISHED)."""
        return self.settle(push, Status.DISCARDED, Reason.FINISHED, f"the job finished at step {self.step}")
