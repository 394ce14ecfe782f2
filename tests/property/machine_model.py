"""What a job must do, written from the definitions of a round, an epoch and an outcome.

`JobModel.after(event)` predicts what an event brings about. It keeps lists and looks through them, has no effects,
journal or shards, and knows nothing of how the core is built; test_machine.py holds the core to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
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
    UpdateRequested,
)
from optimd_server.core.ledger import OUTCOMES_KEPT
from optimdpb.specs import ClipGlobalNorm, Constant, JobSpec, Linear
from optimdpb.specs.checks import STEPS_MAX

from tests.property.machine_parts import Account, Command, Due, Epoch, Key, Life, Refusal, Request, Word

WEIGHT_MAX = 1e18
SUM_MAX = 1e18
REASON_GONE = {
    "left": "NOT_JOINED",
    "failed": "NOT_JOINED",
    "expired": "LEASE_EXPIRED",
    "set aside": "WORKER_SET_ASIDE",
}


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
        self.steps_max = spec.steps_max
        self.requests: list[Request] = []
        self.due = Due()

    @property
    def finished(self) -> bool:
        """t = N."""
        return self.steps_max is not None and self.step >= self.steps_max

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
            case UpdateRequested():
                self._change(event)
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
        return self.step, self.opened, self.counts.copy(), self.steps_max, list(self.requests)

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
        self.steps_max, self.requests = photo[3], list(photo[4])
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

    def _change(self, event: UpdateRequested) -> None:
        """Another end, above the present step; a finished job goes on. The same again has the same answer."""
        known = next((r for r in self.requests if r.event.request_id == event.request_id), None)
        if known is None:
            assert event.steps_max is not None
            assert event.at_step is None
            if not self.step < event.steps_max <= STEPS_MAX:
                raise Refusal("INVALID_UPDATE")
            if event.expected_revision not in (None, len(self.requests)):
                raise Refusal("REVISION_MISMATCH")
            known = Request(event, len(self.requests) + 1, self.step + (self.update is not None))
            self.requests.append(known)
            was_finished, self.steps_max = self.finished, event.steps_max
            if was_finished:
                self._go_on()
        elif known.event != event:
            raise Refusal("INVALID_UPDATE")
        self.due.change = known.revision, known.at_step

    def _go_on(self) -> None:  # noqa: B027 - in most models it is as if it had not finished
        """The job was finished and is not any more."""

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
