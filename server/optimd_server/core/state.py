"""What a job is at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optimdpb.specs import JobSpec

from optimd_server.core.clock import Clock
from optimd_server.core.creation import Creation
from optimd_server.core.effects import Outcome, Reason, RoundRecord, Status
from optimd_server.core.events import Push
from optimd_server.core.ledger import Ledger
from optimd_server.core.members import Member, Members
from optimd_server.core.range_test import Point, RangeTest
from optimd_server.optimizers import Plan, plan_of

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
    """One change of the job itself, in words, the lineage then, and the step from which it holds.

    requester, unix_s: who asked for it and when, "" and 0 if nobody did; revision: 0 for what UpdateJob did not make.
    """

    change: str
    lineage: str
    step: int
    requester: str = ""
    unix_s: float = 0.0
    revision: int = 0


class JobState:
    """Specification, version, members, outcomes and clock of one job.

    `rule_count` counts the rule's updates, `memories` is what it remembers beside its slots. `opened`: whether a round
    ever was. `halted`: whether the server ends. `history` is bounded.
    """

    def __init__(self, spec: JobSpec, lease_s: float) -> None:
        self.spec = spec
        self.lineage = ""
        self.step = 0
        self.rule_count = 0
        self.plan = plan_of(spec)
        self.clock = Clock(spec.optimizer, spec.groups, spec.steps_max)
        self.range_test: RangeTest | None = None
        self.memories = self.plan.first_memories()
        self.counters = Counters()
        self.opened = False
        self.halted = False
        self.restored_step = 0
        self.broken: list[Member] = []
        self.last_round: RoundRecord | None = None
        self.history: list[HistoryEntry] = []
        self.members = Members(lease_s)
        self.ledger = Ledger()
        self.creation = Creation(lease_s)

    def note(
        self, change: str, *, step: int | None = None, requester: str = "", unix_s: float = 0.0, revision: int = 0
    ) -> None:
        """Add to the history. step: None for the step now."""
        entry = HistoryEntry(change, self.lineage, self.step if step is None else step, requester, unix_s, revision)
        self.history = [*self.history, entry][-HISTORY_KEPT:]

    @property
    def sweeping(self) -> bool:
        """Whether a range test makes the updates."""
        return self.range_test is not None and self.range_test.sweeping

    @property
    def held(self) -> bool:
        """Whether no round may open or close."""
        return self.halted or self.clock.paused or (self.range_test is not None and self.range_test.halfway)

    @property
    def finished(self) -> bool:
        """Whether t has reached steps_max; a range test may go beyond it and comes back."""
        steps_max = self.clock.steps_max
        return steps_max is not None and self.step >= steps_max and not self.sweeping

    def learning_rate(self) -> float:
        """lr(t), the rate of the coming update."""
        if self.range_test is not None and self.range_test.sweeping:
            return self.range_test.rate(self.step)
        return self.clock.rate(self.step)

    def plan_under(self, values: Mapping[str, float]) -> Plan:
        """The rule with the hyper-parameters in force, and these values for those that are scheduled."""
        if self.plan.optimizer is not self.clock.optimizer:
            self.plan = self.plan.under(self.clock.optimizer)
        return self.plan.under(self.clock.optimizer.at(values)) if values else self.plan

    def heard(self, record: RoundRecord, losses: Iterable[float | None]) -> None:
        """A round was applied: what holds from the next step on holds. losses: as its workers reported them."""
        if self.range_test is not None and self.range_test.sweeping:
            point = Point(record.step, record.learning_rate, record.loss, len(record.contributions))
            self.range_test.take(point, losses)
        else:
            self.clock.hear(record.step, record.loss)
            self.clock.advance(self.step)

    def outcome(self, push: Push, status: Status, reason: Reason, detail: str) -> Outcome:
        """The outcome of a push as things stand now."""
        staleness = self.step - push.base.step if push.base.lineage == self.lineage else 0
        place = self._rank(push), len(self.members)
        return Outcome(push.seq, status, reason, detail, self.step, self.learning_rate(), staleness, *place)

    def outcome_applied(self, push: Push, step: int, learning_rate: float) -> Outcome:
        """The outcome of a push that was part of the update of `step`."""
        place = self._rank(push), len(self.members)
        return Outcome(push.seq, Status.APPLIED, Reason.NONE, "", step, learning_rate, step - push.base.step, *place)

    def _rank(self, push: Push) -> int:
        return self.members.rank(push.worker) if self.members.is_live(push.worker, push.epoch) else -1

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
        if self.range_test is not None and self.range_test.sweeping:
            if outcome.reason in (Reason.NON_FINITE, Reason.TOO_LARGE):
                self.range_test.reject(push.worker, outcome.detail)
        elif member is not None:
            member.rejections += 1
            limit = self.spec.rejections_max
            if limit is not None and member.rejections == limit:
                self.broken.append(member)
