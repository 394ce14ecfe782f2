"""What a job is at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.specs import JobSpec

from optimd_server.core.creation import Creation
from optimd_server.core.effects import Outcome, Reason, RoundRecord, Status
from optimd_server.core.events import Push
from optimd_server.core.ledger import Ledger
from optimd_server.core.members import Member, Members
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
        self.restored_step = 0
        self.broken: list[Member] = []
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
        rank = self.members.rank(push.worker) if self.members.live(push.worker, push.epoch) is not None else -1
        staleness = self.step - push.base.step if push.base.lineage == self.lineage else 0
        rate = self.learning_rate()
        return Outcome(push.seq, status, reason, detail, self.step, rate, staleness, rank, len(self.members))

    def record(self, push: Push, outcome: Outcome) -> None:
        """Store and count the outcome of a taken push."""
        self.ledger.settle(push.worker, push.epoch, outcome)
        member = self.members.live(push.worker, push.epoch)
        if outcome.status is Status.APPLIED:
            self.counters.applied += 1
            if member is not None:
                member.rejections = 0
            return
        if outcome.status is Status.DISCARDED:
            self.counters.discarded += 1
            return
        self.counters.rejected += 1
        if member is not None:
            member.rejections += 1
            limit = self.spec.rejections_max
            if limit is not None and member.rejections == limit:
                self.broken.append(member)
