"""The state machine of one job: creation, membership, admission of pushes. The rules are written down in core.

After every event the rounds advance as far as they can. An event that is refused raises before anything has changed.
"""

from __future__ import annotations

import math

from optimdpb.errors import NotServed, Refused
from optimdpb.specs import Async, JobSpec, Ssp, Sync
from optimdpb.specs.checks import STEPS_MAX

from optimd_server.core.arithmetic import Committed
from optimd_server.core.asynchronous import AsyncRounds
from optimd_server.core.control import Control
from optimd_server.core.effects import (
    Answered,
    BecameReady,
    ControlRecord,
    DropStaging,
    Effect,
    Joined,
    MemberRecord,
    Outcome,
    Pending,
    Proceed,
    Reason,
    Status,
)
from optimd_server.core.events import (
    Applied,
    CreateRequested,
    Event,
    HaltRequested,
    JoinRequested,
    Kept,
    LeaveRequested,
    Prepared,
    Push,
    PushCommitted,
    PushOffered,
    PutBack,
    RangeTestRequested,
    SignOfLife,
    Ticked,
    UpdateRequested,
    UploadCompleted,
    UploadProgressed,
    Version,
)
from optimd_server.core.ledger import Account
from optimd_server.core.members import Member, not_joined
from optimd_server.core.rounds import Rounds
from optimd_server.core.ssp import SspRounds
from optimd_server.core.state import JobState
from optimd_server.core.sync import SyncRounds

WEIGHT_MAX = 1e18


class JobMachine:
    """One job.

    `tick_interval_s`: how often the runtime sends Ticked; a tick that comes later gives every lease the lost time back.
    epochs_from: no epoch given out here is lower; above all that an earlier process gave out for a job of this
    name and may have forgotten: its workers may still be there.
    Raises NotServed for a consistency model that is not served yet.
    """

    def __init__(self, spec: JobSpec, *, lease_s: float, tick_interval_s: float, epochs_from: int = 1) -> None:
        self.state = JobState(spec, lease_s)
        self.state.members.last_epoch = epochs_from - 1
        self.state.ledger.start(epochs_from)
        self.rounds = _rounds_of(self.state)
        self.control = Control(self.state, self.rounds)
        self._tick_interval_s = tick_interval_s
        self._last_tick_s: float | None = None

    def start_clock(self, now_s: float) -> None:
        """Time counts from here on; without it, from the first event on."""
        self._last_tick_s = now_s

    @property
    def version(self) -> Version:
        """The version of the parameters now."""
        return Version(self.state.lineage, self.state.step)

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event at monotonic time now_s. Raises Refused, having changed nothing."""
        if self._last_tick_s is None:
            self._last_tick_s = now_s
        effects = self._take(event, now_s)
        if not self.state.creation.ready:
            return effects
        try:
            effects += self._advance(now_s)
            while self.state.broken or self.control.is_due:
                effects += self._advance(now_s)
        except Refused as error:
            raise AssertionError(f"refused behind a change: {error}") from error
        return effects

    def _advance(self, now_s: float) -> list[Effect]:
        return self._set_aside() + self.control.advance(now_s) + self.rounds.advance(now_s)

    def _take(self, event: Event, now_s: float) -> list[Effect]:
        match event:
            case PushOffered():
                return self._offer(event.push, now_s)
            case PushCommitted():
                return self._commit(event, now_s)
            case SignOfLife():
                self.state.members.renew(self._member(event.worker, event.epoch), now_s, event.idle_s)
                return []
            case Prepared():
                return self.rounds.prepared(event)
            case Applied():
                return self.rounds.applied(event)
            case JoinRequested():
                return self._join(event.worker, now_s)
            case LeaveRequested():
                return self._leave(event)
            case Ticked():
                return self._tick(now_s)
            case UpdateRequested():
                self._check_ready()
                return self.control.update(event)
            case RangeTestRequested():
                self._check_ready()
                return self.control.start_range_test(event)
            case HaltRequested():
                self.state.halted = True
                self.control.stop_range_test()
                return []
            case Kept():
                return self.control.kept(event)
            case PutBack():
                return self.control.put_back(event)
            case CreateRequested():
                return self._create(event.worker, now_s)
            case UploadProgressed():
                self.state.creation.progress(event.token, now_s)
                return []
            case UploadCompleted():
                self.state.creation.complete(event.token)
                self.state.lineage = event.lineage
                self.state.note("ready")
                return [ControlRecord("ready", event.lineage), BecameReady()]

    def outcome_of(self, worker: str, epoch: int, seq: int) -> Outcome | Pending | None:
        """What became of a push: its outcome, Pending, or None if it was never taken. Raises Refused."""
        check_seq(seq)
        account = self.state.ledger.find(worker, epoch)
        if account is None:
            message = f"expected a remembered epoch of worker {worker!r}, got {epoch}"
            raise Refused("NOT_JOINED", message, worker=worker, epoch=epoch)
        if seq > account.last_seq:
            return None
        if seq == account.last_seq and (account.pending or self.rounds.withholds(worker, epoch)):
            return Pending()
        return self.state.ledger.recall(account, seq)

    def waiting_for(self, now_s: float) -> str:
        """What the job waits for, in words; empty if for nothing."""
        creation = self.state.creation
        if not creation.ready:
            return f"the job waits for its parameters{f' from {creation.uploader}' if creation.uploader else ''}"
        return self.control.waiting_for() or self.rounds.waiting_for(now_s)

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        members = self.state.members
        assert members.last_epoch >= max((member.epoch for member in members), default=0)
        assert not self.state.broken
        self.rounds.check_invariants()

    def _create(self, worker: str, now_s: float) -> list[Effect]:
        members, creation = self.state.members, self.state.creation
        effects = creation.request(worker, members.last_epoch + 1, now_s)
        if creation.token > members.last_epoch:
            members.take_epoch()
        return effects

    def _join(self, worker: str, now_s: float) -> list[Effect]:
        self._check_ready()
        members = self.state.members
        member, superseded = members.join(worker, now_s)
        self.state.ledger.open(worker, member.epoch)
        self.rounds.joined(member)
        effects: list[Effect] = [
            Joined(worker, member.epoch, members.rank(worker), len(members)),
            MemberRecord(worker, member.epoch, "joined"),
        ]
        if superseded is not None:
            effects += self._epoch_over(superseded, "superseded")
        return effects

    def _member(self, worker: str, epoch: int) -> Member:
        """The live member of that epoch. Raises as Members.check()."""
        member = self.state.members.live(worker, epoch)
        if member is not None:
            return member
        if not self.state.ledger.was_given(worker, epoch):
            raise not_joined(worker, epoch)
        return self.state.members.check(worker, epoch)

    def _leave(self, event: LeaveRequested) -> list[Effect]:
        """Nothing the second time: the answer to the first may be lost."""
        if self.state.members.has_left(event.worker, event.epoch):
            return []
        return self._remove(self._member(event.worker, event.epoch), "failed" if event.failed else "left")

    def _remove(self, member: Member, how: str) -> list[Effect]:
        self.state.members.remove(member, how)
        return self._epoch_over(member, how)

    def _set_aside(self) -> list[Effect]:
        """Before the next round opens, so that it does not wait for those that are broken."""
        effects: list[Effect] = []
        broken, self.state.broken = self.state.broken, []
        for member in broken:
            if self.state.members.live(member.worker, member.epoch) is member:
                effects += self._remove(member, "set aside")
        return effects

    def _epoch_over(self, member: Member, change: str) -> list[Effect]:
        """What the model lets count stays; what is half staged goes."""
        effects: list[Effect] = [MemberRecord(member.worker, member.epoch, change)]
        effects += self.rounds.epoch_over(member, change)
        account = self.state.ledger.find(member.worker, member.epoch)
        if account is None or not account.pending:
            effects.append(DropStaging(member.worker, member.epoch))
        self.state.ledger.retire(member.worker, member.epoch)
        return effects

    def _tick(self, now_s: float) -> list[Effect]:
        assert self._last_tick_s is not None
        late_s = now_s - self._last_tick_s - self._tick_interval_s
        self._last_tick_s = now_s
        if late_s > self._tick_interval_s:
            self.state.members.extend(late_s)
            self.state.creation.extend(late_s)
            self.rounds.extend(late_s)
        effects: list[Effect] = []
        for member in self.state.members.expired(now_s):
            effects += self._remove(member, "expired")
        return effects

    def _check_ready(self) -> None:
        if not self.state.creation.ready:
            raise Refused("JOB_NOT_READY", "the job waits for its parameters", state="INITIALIZING")

    def _check_push(self, push: Push) -> tuple[Member, Account, Outcome | None]:
        """The push's member, account and, for a duplicate, outcome. Raises Refused."""
        self._check_ready()
        check_seq(push.seq)
        if not 0.0 < push.weight <= WEIGHT_MAX:
            message = f"weight: expected above 0 and at most {WEIGHT_MAX:g}, got {push.weight}"
            raise Refused("INVALID_PUSH", message, field="weight")
        if not 0 <= push.base.step <= STEPS_MAX:
            message = f"base_version.step: expected 0 to 2^53, got {push.base.step}"
            raise Refused("INVALID_PUSH", message, field="base_version.step")
        member = self._member(push.worker, push.epoch)
        account = self.state.ledger.find(push.worker, push.epoch)
        assert account is not None, f"live epoch {push.epoch} of {push.worker} has no account"
        withheld = self.rounds.withholds(push.worker, push.epoch)
        return member, account, self.state.ledger.check_next(account, push.seq, withheld=withheld)

    def _admit(self, push: Push, now_s: float) -> list[Effect]:
        """Answer what the header alone decides; nothing if the payload matters."""
        state = self.state
        member, account, known = self._check_push(push)
        state.members.renew(member, now_s)
        if known is not None:
            state.counters.duplicates += 1
            return [Answered(push.worker, push.epoch, known, duplicate=True)]
        if push.seq == account.last_seq:
            state.counters.duplicates += 1
            return [Pending()]
        same_lineage = push.base.lineage == state.lineage
        old = self.rounds.too_old(push) if same_lineage else None
        is_early = push.base.step > state.step
        if not state.finished and same_lineage and old is None and not is_early:
            return []
        member.pushed_s = now_s
        if not state.finished and same_lineage and is_early:
            detail = f"its base step is {push.base.step}, the job is at {state.step}"
            return self.rounds.reject(push, Reason.BASE_IN_FUTURE, detail)
        state.ledger.take(push.worker, push.epoch, push.seq)
        if state.finished:
            return self.rounds.settle_finished(push)
        if old is not None:
            return self.rounds.settle(push, Status.DISCARDED, *old)
        return self.rounds.settle_lineage_changed(push)

    def _offer(self, push: Push, now_s: float) -> list[Effect]:
        return self._admit(push, now_s) or [Proceed()]

    def _commit(self, event: PushCommitted, now_s: float) -> list[Effect]:
        answered = self._admit(event.push, now_s)
        if answered:
            return answered
        member = self.state.members.of(event.push.worker)
        assert member is not None
        member.pushed_s = now_s
        if not math.isfinite(event.magnitude_max):
            return self.rounds.reject(event.push, Reason.NON_FINITE, "the gradient holds NaN or infinity")
        self.rounds.commit(Committed(event.push, event.magnitude_max))
        return []


def check_seq(seq: int) -> None:
    """Raises Refused(INVALID_PUSH) for a seq that no push can have."""
    if seq < 1:
        raise Refused("INVALID_PUSH", f"seq: expected at least 1, got {seq}", field="seq")


def _rounds_of(state: JobState) -> Rounds:
    """Raises NotServed for a consistency model that this server does not know."""
    match state.spec.consistency:
        case Sync() as model:
            return SyncRounds(state, model)
        case Async() as model:
            return AsyncRounds(state, model)
        case Ssp() as model:
            return SspRounds(state, model)
        case model:
            raise NotServed(f"consistency {type(model).__name__}")
