"""What a job must do, written from the definitions of a round, an epoch and an outcome.

`JobModel.after(event)` predicts what an event brings about. It keeps lists and looks through them, has no effects,
journal or shards, and knows nothing of how the core is built; test_machine.py holds the core to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optimd_server.core.effects import Outcome, Reason, Status
from optimd_server.core.events import (
    Applied,
    Event,
    JoinRequested,
    LeaveRequested,
    Prepared,
    Push,
    PushCommitted,
    PushOffered,
    SignOfLife,
    Ticked,
)
from optimd_server.core.ledger import OUTCOMES_KEPT
from optimdpb.specs import Async, ClipGlobalNorm, Constant, JobSpec, Linear, Ssp, Sync

WEIGHT_MAX = 1e18
SUM_MAX = 1e18
REASON_GONE = {
    "left": "NOT_JOINED",
    "failed": "NOT_JOINED",
    "expired": "LEASE_EXPIRED",
    "set aside": "WORKER_SET_ASIDE",
}

Epoch = tuple[str, int]
Key = tuple[str, int, int]


class Refusal(Exception):
    """The event must be refused for this reason and change nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Life:
    """A live epoch. `clock`: outcomes since it joined, from the slowest one's on."""

    epoch: int
    until_s: float
    rejections: int = 0
    clock: int = 0


@dataclass(eq=False)
class Word:
    """A push that was taken and has no outcome yet. `bad`: why it is unusable."""

    push: Push
    magnitude: float
    bad: Reason | None = None
    in_round: bool = False

    @property
    def epoch(self) -> Epoch:
        """Whose it is."""
        return self.push.worker, self.push.epoch


@dataclass
class Account:
    """Pushes of one epoch. `taken`: the last seq that was."""

    taken: int = 0
    word: Word | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)


@dataclass
class Command:
    """A Prepare, or an Apply if `rate` is there. `parts`: (worker, epoch, seq, scale, share, base step)."""

    step: int
    parts: tuple[tuple[str, int, int, float, float, int], ...]
    rate: float | None = None
    limit: float = 1.0


@dataclass
class Due:
    """What one event must bring about. Outcomes have no detail here.

    `rank`: that of who joins, and of how many; `freed`: epochs whose staging is dropped.
    """

    reply: str = ""
    rank: tuple[int, int] | None = None
    settled: dict[Key, Outcome] = field(default_factory=dict)
    told: set[Key] = field(default_factory=set)
    commands: list[Command] = field(default_factory=list)
    members: list[tuple[str, int, str]] = field(default_factory=list)
    freed: set[Epoch] = field(default_factory=set)
    loss: float | None = None


class JobModel(ABC):
    """One job that has its parameters.

    `waiting`: taken, without an outcome and in no update on its way, in order; `update`: what is on its way.
    """

    def __init__(self, spec: JobSpec, lease_s: float, tick_s: float, lineage: str, now_s: float) -> None:
        self.spec, self.lease_s, self.tick_s = spec, lease_s, tick_s
        self.lineage, self.step, self.opened = lineage, 0, False
        self.now_s = self.ticked_s = now_s
        self.live: dict[str, Life] = {}
        self.gone: dict[str, tuple[int, str]] = {}
        self.accounts: dict[Epoch, Account] = {}
        self.waiting: list[Word] = []
        self.update: tuple[list[Word], Command] | None = None
        self.untold: list[Key] = []
        self.broken: list[Epoch] = []
        self.counts: Counter[str] = Counter()
        self.due = Due()

    @property
    def finished(self) -> bool:
        """t = N."""
        return self.spec.steps_max is not None and self.step >= self.spec.steps_max

    @property
    def names(self) -> list[str]:
        """Live workers in byte order."""
        return sorted(self.live, key=str.encode)

    def is_live(self, epoch: Epoch) -> bool:
        """Whether it is its worker's newest, not left, expired or set aside."""
        return epoch[0] in self.live and self.live[epoch[0]].epoch == epoch[1]

    def is_pending(self, epoch: Epoch) -> bool:
        """Whether its last push is in flight: no outcome, or none that was told."""
        return self.accounts[epoch].word is not None or any(key[:2] == epoch for key in self.untold)

    def rate(self) -> float:
        """lr(t)."""
        lr = self.spec.optimizer.lr
        if isinstance(lr, Linear):
            return lr.lr_start + (lr.lr_end - lr.lr_start) * min(self.step, lr.steps) / lr.steps
        assert isinstance(lr, Constant)
        return lr.lr

    def after(self, event: Event, now_s: float, epoch: int = 0) -> Due:
        """What the event must bring about; `epoch` is what a join was given. Raises Refusal, having changed nothing."""
        self.now_s, self.due = now_s, Due()
        match event:
            case JoinRequested():
                self._join(event.worker, epoch)
            case LeaveRequested():
                if self.gone.get(event.worker) not in ((event.epoch, "left"), (event.epoch, "failed")):
                    self._check(event.worker, event.epoch)
                    self._end(event.worker, "failed" if event.failed else "left")
            case SignOfLife():
                self._check(event.worker, event.epoch).until_s = now_s + self.lease_s
            case PushOffered():
                self._push(event.push, None)
            case PushCommitted():
                self._push(event.push, event.magnitude_max)
            case Ticked():
                self._tick()
            case Prepared():
                self._prepared(float(event.sums.sum()))
            case Applied():
                self._applied()
            case _:
                raise NotImplementedError(event)
        self._set_aside()
        self._advance()
        while self.broken:
            self._set_aside()
            self._advance()
        self.due.told = {key for key in self.untold if self._may_tell(key)}
        self.untold = [key for key in self.untold if key not in self.due.told]
        return self.due

    def photo(self) -> Any:
        """What a snapshot taken now keeps if everything after it is lost."""
        return self.step, self.opened, self.counts.copy()

    def restart(self, now_s: float) -> None:
        """Lossless: what has no outcome was never taken, leases start anew."""
        words = [*self.waiting, *(self.update[0] if self.update else ())]
        for word in words:
            account = self.accounts[word.epoch]
            account.taken, account.word = account.taken - 1, None
        self.now_s = self.ticked_s = now_s
        self.waiting, self.update = [], None
        for life in self.live.values():
            life.until_s = now_s + self.lease_s

    def lose(self, now_s: float, photo: Any, lineage: str) -> None:
        """Lossy: nobody is known any more, the parameters are those of the snapshot, under another lineage."""
        self.restart(now_s)
        self.step, self.opened, self.counts = photo[0], photo[1], photo[2].copy()
        self.lineage, self.untold = lineage, []
        for table in (self.live, self.gone, self.accounts):
            table.clear()

    @abstractmethod
    def _advance(self) -> None:
        """Open and close rounds as far as possible."""

    @abstractmethod
    def _too_old(self, push: Push) -> Reason | None:
        """Why it comes too late, if it does."""

    def _speak(self, word: Word) -> None:
        """A push was taken."""
        if word.bad is not None:
            self._settle(word, Status.REJECTED, word.bad)

    def _round_over(self) -> None:  # noqa: B027 - only some models have rounds with members
        """The round was applied or void."""

    def _may_tell(self, key: Key) -> bool:
        """Whether the answer may go out."""
        return True

    def _first_clock(self) -> int:
        return min((life.clock for life in self.live.values()), default=0)

    def _join(self, worker: str, epoch: int) -> None:
        self.gone.pop(worker, None)
        former = self.live.pop(worker, None)
        self.live[worker] = Life(epoch, self.now_s + self.lease_s, clock=self._first_clock())
        self.accounts[worker, epoch] = Account()
        self.due.rank = self.names.index(worker), len(self.live)
        self.due.members.append((worker, epoch, "joined"))
        if former is not None:
            self._over((worker, former.epoch), "superseded")

    def _end(self, worker: str, how: str) -> None:
        epoch = self.live.pop(worker).epoch
        self.gone[worker] = epoch, how
        self._over((worker, epoch), how)

    def _set_aside(self) -> None:
        """Epochs rejected too often end, before the next round opens."""
        broken, self.broken = self.broken, []
        for worker, number in broken:
            if self.is_live((worker, number)):
                self._end(worker, "set aside")

    def _over(self, epoch: Epoch, how: str) -> None:
        """It is no longer live."""
        account = self.accounts[epoch]
        self.due.members.append((*epoch, how))
        self._forget(epoch)
        account.outcomes = dict(list(account.outcomes.items())[-1:])
        if account.word is None:
            self.due.freed.add(epoch)

    def _forget(self, epoch: Epoch) -> None:  # noqa: B027 - in most models all counts
        """What does not count of an epoch that is over is discarded."""

    def _check(self, worker: str, epoch: int) -> Life:
        if self.is_live((worker, epoch)):
            return self.live[worker]
        newest, how = self.gone.get(worker, (0, ""))
        if worker in self.live:
            newest = self.live[worker].epoch
        if 1 <= epoch < newest:
            raise Refusal("EPOCH_SUPERSEDED")
        raise Refusal(REASON_GONE[how] if epoch == newest and how else "NOT_JOINED")

    def _push(self, push: Push, magnitude: float | None) -> None:
        """Offered if there is no magnitude."""
        if push.seq < 1 or not 0.0 < push.weight <= WEIGHT_MAX:
            raise Refusal("INVALID_PUSH")
        life = self._check(push.worker, push.epoch)
        account = self.accounts[push.worker, push.epoch]
        pending = self.is_pending((push.worker, push.epoch))
        if push.seq > account.taken + 1:
            raise Refusal("SEQ_GAP")
        if push.seq == account.taken + 1 and pending:
            raise Refusal("PUSH_IN_FLIGHT")
        waits = push.seq == account.taken and pending
        if push.seq <= account.taken and not waits and push.seq not in account.outcomes:
            raise Refusal("SEQ_FORGOTTEN")
        life.until_s = self.now_s + self.lease_s
        if push.seq <= account.taken:
            self.counts["duplicates"] += 1
            self.due.reply = "pending" if waits else "duplicate"
            return
        same = push.base.lineage == self.lineage
        discarded = Reason.FINISHED if self.finished else self._too_old(push) if same else Reason.LINEAGE_CHANGED
        word = Word(push, magnitude or 0.0)
        if discarded is None and push.base.step > self.step:
            word.bad = Reason.BASE_IN_FUTURE
        elif discarded is None and magnitude is None:
            self.due.reply = "proceed"
            return
        elif discarded is None and not math.isfinite(word.magnitude):
            word.bad = Reason.NON_FINITE
        account.taken, account.word = push.seq, word
        self.waiting.append(word)
        if discarded is not None:
            self._settle(word, Status.DISCARDED, discarded)
        else:
            self._speak(word)

    def _tick(self) -> None:
        """A tick more than one interval late gives the lost time back."""
        late_s = self.now_s - self.ticked_s - self.tick_s
        self.ticked_s = self.now_s
        if late_s > self.tick_s:
            self._give_back(late_s)
        for worker in [name for name in self.names if self.live[name].until_s < self.now_s]:
            self._end(worker, "expired")

    def _give_back(self, by_s: float) -> None:
        for life in self.live.values():
            life.until_s += by_s

    def _settle(self, word: Word, status: Status, reason: Reason = Reason.NONE) -> None:
        """Give a push its outcome at t, before t changes."""
        push, live = word.push, self.is_live(word.epoch)
        staleness = self.step - push.base.step if push.base.lineage == self.lineage else 0
        rank = self.names.index(push.worker) if live else -1
        outcome = Outcome(push.seq, status, reason, "", self.step, self.rate(), staleness, rank, len(self.live))
        account = self.accounts[word.epoch]
        assert account.word is word
        account.word = None
        account.outcomes[push.seq] = outcome
        while len(account.outcomes) > (OUTCOMES_KEPT if live else 1):
            del account.outcomes[next(iter(account.outcomes))]
        if word in self.waiting:
            self.waiting.remove(word)
        self.counts[status.value] += 1
        self.due.settled[*word.epoch, push.seq] = outcome
        self.due.freed.add(word.epoch)
        self.untold.append((*word.epoch, push.seq))
        if live:
            life = self.live[push.worker]
            life.clock += 1
            life.rejections = {Status.APPLIED: 0, Status.REJECTED: life.rejections + 1}.get(status, life.rejections)
            if status is Status.REJECTED and life.rejections == self.spec.rejections_max:
                self.broken.append(word.epoch)

    def _close(self, words: list[Word], factor: float) -> None:
        """One update of these pushes, or none if they are none or too large."""
        words = sorted(words, key=lambda word: word.push.worker.encode())
        total = 0.0
        for word in words:
            total += word.push.weight
        shares = [float(np.float32(word.push.weight / total)) for word in words]
        scales = [float(np.float32(factor * (1.0 if self.spec.reduction == "sum" else share))) for share in shares]
        sizes = {word.push.worker: scale * word.magnitude for word, scale in zip(words, scales, strict=True)}
        if not words or math.fsum(sizes.values()) > SUM_MAX:
            self.counts["rounds_void"] += 1
            alone = {worker for worker, size in sizes.items() if size > SUM_MAX}
            culprits = alone or set(sorted(sizes, key=lambda worker: (sizes[worker], worker.encode()))[-1:])
            for word in words:
                if word.push.worker in culprits:
                    self._settle(word, Status.REJECTED, Reason.TOO_LARGE)
                else:
                    self._settle(word, Status.DISCARDED, Reason.ROUND_VOID)
            self._round_over()
            return
        self.waiting = [word for word in self.waiting if word not in words]
        parts = tuple(
            (*word.epoch, word.push.seq, scale, share, word.push.base.step)
            for word, scale, share in zip(words, scales, shares, strict=True)
        )
        command = Command(self.step, parts, None if self.spec.clip else self.rate())
        self.update = words, command
        self.due.commands.append(command)

    def _prepared(self, square_sum: float) -> None:
        assert self.update is not None
        assert isinstance(self.spec.clip, ClipGlobalNorm)
        words, command = self.update
        limit = min(1.0, self.spec.clip.norm_max / math.sqrt(square_sum))
        self.update = words, Command(self.step, command.parts, self.rate(), float(np.float32(limit)))
        self.due.commands.append(self.update[1])

    def _applied(self) -> None:
        assert self.update is not None
        words, self.update = self.update[0], None
        told = [word.push for word in words if word.push.loss is not None and math.isfinite(word.push.loss)]
        if told:
            self.due.loss = sum(push.weight * push.loss for push in told) / sum(push.weight for push in told)
        for word in words:
            self._settle(word, Status.APPLIED)
        self.step += 1
        self._round_over()
        while self.finished and self.waiting:
            self._settle(self.waiting[0], Status.DISCARDED, Reason.FINISHED)


class SyncModel(JobModel):
    """`members`: epoch by name at the opening of the open round, None if none is open."""

    def __init__(self, spec: JobSpec, *rest: Any) -> None:
        super().__init__(spec, *rest)
        assert isinstance(spec.consistency, Sync)
        model = spec.consistency
        self.workers, self.quorum, self.timeout_s = model.workers, model.quorum, model.round_timeout_s
        self.floor = model.workers_min or 0
        self.members: dict[str, int] | None = None
        self.opened_s = 0.0
        self.places_left: list[str] = []

    @property
    def size(self) -> int:
        """Workers that the job counts on: who left, in order, is not among them, nor below a floor that was given."""
        return max(self.floor, self.workers - len(self.places_left))

    @property
    def least(self) -> int:
        """Workers that must be live for a round to close."""
        return min(self.floor or self.quorum or self.workers, self.size)

    @property
    def needed(self) -> int:
        """Workers that must be live for rounds to go on."""
        return max(1, self.least if self.opened else self.size)

    def photo(self) -> Any:
        return *super().photo(), list(self.places_left)

    def lose(self, now_s: float, photo: Any, lineage: str) -> None:
        super().lose(now_s, photo, lineage)
        self.places_left = list(photo[3])

    def _join(self, worker: str, epoch: int) -> None:
        super()._join(worker, epoch)
        if len(self.places_left) == self.workers:
            self.places_left, self.opened = [], False
        if worker in self.places_left:
            self.places_left.remove(worker)
        while self.places_left and len(self.live) + len(self.places_left) > self.workers:
            del self.places_left[0]

    def _end(self, worker: str, how: str) -> None:
        super()._end(worker, how)
        if how == "left" and len(self.live) + len(self.places_left) < self.workers:
            self.places_left.append(worker)

    def awaited(self) -> list[str]:
        """Members of the opening that are live and have not spoken."""
        spoken = {word.epoch for word in self.waiting if word.in_round}
        members = (self.members or {}).items()
        return [epoch[0] for epoch in members if self.is_live(epoch) and epoch not in spoken]

    def restart(self, now_s: float) -> None:
        super().restart(now_s)
        self.members = None

    def _too_old(self, push: Push) -> Reason | None:
        return Reason.LATE if push.base.step < self.step else None

    def _speak(self, word: Word) -> None:
        """The word of a member that the round waits for; any other is answered now if bad, else at an opening."""
        worker, epoch = word.epoch
        if self.update is None and worker in self.awaited() and (self.members or {})[worker] == epoch:
            word.in_round = True
            if word.bad is not None:
                self.due.reply = "pending"
                self.due.freed.add(word.epoch)
        else:
            super()._speak(word)

    def _forget(self, epoch: Epoch) -> None:
        word = self.accounts[epoch].word
        if word in self.waiting and not word.in_round:
            self._settle(word, Status.DISCARDED, Reason.NOT_A_MEMBER)

    def _give_back(self, by_s: float) -> None:
        super()._give_back(by_s)
        self.opened_s += by_s

    def _advance(self) -> None:
        while self.update is None and not self.broken:
            if self.members is None:
                if self.finished or len(self.live) < self.needed:
                    return
                self._open()
            elif self._may_close():
                self._close([word for word in self.waiting if word.in_round and word.bad is None], 1.0)
            else:
                return

    def _open(self) -> None:
        self.opened, self.opened_s = True, self.now_s
        self.members = {worker: life.epoch for worker, life in self.live.items()}
        for word in list(self.waiting):
            if self._too_old(word.push):
                self._settle(word, Status.DISCARDED, Reason.LATE)
            else:
                assert self.is_live(word.epoch)
                word.in_round = True

    def _may_close(self) -> bool:
        if len(self.live) < self.least:
            return False
        if not self.awaited():
            return True
        usable = sum(word.in_round and word.bad is None for word in self.waiting)
        enough = min(self.quorum or self.floor or 1, self.size)
        if self.timeout_s is None:
            return self.quorum is not None and usable >= enough
        return self.now_s - self.opened_s >= self.timeout_s and usable >= enough

    def _round_over(self) -> None:
        self.members = None
        rejected = [word for word in self.waiting if word.in_round]
        for word in sorted(rejected, key=lambda word: word.push.worker.encode()):
            assert word.bad is not None
            self._settle(word, Status.REJECTED, word.bad)


class AsyncModel(JobModel):
    """Every push is its own round, in the order of the commits."""

    def __init__(self, spec: JobSpec, *rest: Any) -> None:
        super().__init__(spec, *rest)
        model = spec.consistency
        self.staleness_max = model.staleness_max if isinstance(model, Async) else None
        self.inverse = isinstance(model, Async) and model.staleness_scale == "inverse"

    def _too_old(self, push: Push) -> Reason | None:
        over = self.staleness_max is not None and self.step - push.base.step > self.staleness_max
        return Reason.STALE if over else None

    def _advance(self) -> None:
        while self.waiting and self.update is None:
            word = self.waiting[0]
            if self._too_old(word.push):
                self._settle(word, Status.DISCARDED, Reason.STALE)
                continue
            staleness = self.step - word.push.base.step
            self._close([word], float(np.float32(1 / (1 + staleness))) if self.inverse else 1.0)


class SspModel(AsyncModel):
    """As Async; the answer of who is too far ahead of the slowest waits."""

    def _may_tell(self, key: Key) -> bool:
        assert isinstance(self.spec.consistency, Ssp)
        if self.finished or not self.is_live(key[:2]):
            return True
        return self.live[key[0]].clock - self._first_clock() <= self.spec.consistency.staleness


def model_of(spec: JobSpec, *rest: Any) -> JobModel:
    """The model of the job's consistency."""
    kinds: dict[type, type[JobModel]] = {Sync: SyncModel, Async: AsyncModel, Ssp: SspModel}
    return kinds[type(spec.consistency)](spec, *rest)
