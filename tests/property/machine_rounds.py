"""When rounds open and close, and who waits, in each consistency model; see machine_model.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from optimd_server.core.effects import Reason, Status
from optimd_server.core.events import Push
from optimdpb.specs import Async, JobSpec, Ssp, Sync

from tests.property.machine_model import JobModel
from tests.property.machine_parts import Epoch, Key, Word


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
        self.places_left = list(photo[-1])

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

    def _go_on(self) -> None:
        """All start level."""
        slowest = self._first_clock()
        for life in self.live.values():
            life.clock = slowest

    def _may_tell(self, key: Key) -> bool:
        assert isinstance(self.spec.consistency, Ssp)
        if self.finished or not self.is_live(key[:2]):
            return True
        return self.live[key[0]].clock - self._first_clock() <= self.spec.consistency.staleness


def model_of(spec: JobSpec, *rest: Any) -> JobModel:
    """The model of the job's consistency."""
    kinds: dict[type, type[JobModel]] = {Sync: SyncModel, Async: AsyncModel, Ssp: SspModel}
    return kinds[type(spec.consistency)](spec, *rest)
