"""Membership: who is live, under which epoch, until when.

Epochs come from one counter per job that never falls. A lease ends only in expire(), which the tick calls, so a stalled
server expires nobody before it has given back the time it slept.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from optimdpb.errors import EpochSuperseded, LeaseExpired, Refused, WorkerSetAside

GONE_KEPT = 4096


@dataclass
class Member:
    """One worker under its newest epoch.

    gone: "" while it is live, else "left", "failed", "expired" or "set aside". rejections: of its pushes, since one was
    applied. pushed_s: when a push of it was last taken, or when it joined. idle_s: how long its program had not called
    its client when it last said so; None if it never did.
    """

    worker: str
    epoch: int
    lease_until_s: float
    seen_s: float
    gone: str = ""
    rejections: int = 0
    idle_s: float | None = None
    pushed_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.pushed_s = self.seen_s


class Members:
    """All workers of one job. Each event costs the same however many there are."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.last_epoch = 0
        self._live: dict[str, Member] = {}
        self._names: list[str] = []
        self._gone: OrderedDict[str, Member] = OrderedDict()
        self._first_end_s = math.inf  # no lease ends before

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Member]:
        """Live members in byte order of names."""
        return iter([self._live[name] for name in self._names])

    def take_epoch(self) -> int:
        """A number larger than any before."""
        self.last_epoch += 1
        return self.last_epoch

    def join(self, worker: str, now_s: float) -> tuple[Member, Member | None]:
        """Make the worker live under a fresh epoch; also return the live member this supersedes."""
        superseded = self._live.pop(worker, None)
        self._gone.pop(worker, None)
        member = Member(worker, self.take_epoch(), now_s + self.lease_s, now_s)
        self._live[worker] = member
        if superseded is None:
            insort(self._names, worker)
        self._first_end_s = min(self._first_end_s, member.lease_until_s)
        return member, superseded

    def check(self, worker: str, epoch: int) -> Member:
        """The live member of that epoch. Raises Refused(NOT_JOINED), EpochSuperseded, LeaseExpired, WorkerSetAside."""
        member = self._live.get(worker) or self._gone.get(worker)
        if member is not None and epoch < member.epoch:
            raise EpochSuperseded(worker, epoch, member.epoch)
        if member is None or epoch != member.epoch or member.gone in ("left", "failed"):
            raise not_joined(worker, epoch)
        if member.gone == "expired":
            raise LeaseExpired(worker, epoch)
        if member.gone == "set aside":
            raise WorkerSetAside(worker, epoch, member.rejections)
        return member

    def has_left(self, worker: str, epoch: int) -> bool:
        """Whether that epoch, the worker's last, has ended by leaving."""
        member = self._gone.get(worker)
        return member is not None and member.epoch == epoch and member.gone in ("left", "failed")

    def live(self, worker: str, epoch: int) -> Member | None:
        """The member of that epoch if it is live."""
        member = self._live.get(worker)
        return member if member is not None and member.epoch == epoch else None

    def of(self, worker: str) -> Member | None:
        """The worker's live member."""
        return self._live.get(worker)

    def is_live(self, worker: str, epoch: int) -> bool:
        """Whether that epoch is live."""
        return self.live(worker, epoch) is not None

    def has(self, worker: str) -> bool:
        """Whether any epoch of that worker is live."""
        return worker in self._live

    def rank(self, worker: str) -> int:
        """Place of a live worker in byte order of names, from 0."""
        return bisect_left(self._names, worker)

    def renew(self, member: Member, now_s: float, idle_s: float | None = None) -> None:
        """The member was heard of; idle_s: what it said, if it did."""
        member.idle_s = member.idle_s if idle_s is None else idle_s
        member.lease_until_s, member.seen_s = now_s + self.lease_s, now_s
        self._first_end_s = min(self._first_end_s, member.lease_until_s)  # one that was given back time has less now

    def remove(self, member: Member, how: str) -> None:
        """The member left or expired."""
        member.gone = how
        del self._live[member.worker]
        del self._names[self.rank(member.worker)]
        self._gone[member.worker] = member
        while len(self._gone) > GONE_KEPT:
            self._gone.popitem(last=False)

    def extend(self, by_s: float) -> None:
        """Give every live member more time."""
        for member in self._live.values():
            member.lease_until_s += by_s
        self._first_end_s += by_s

    def expired(self, now_s: float) -> list[Member]:
        """Live members whose lease is over, in byte order of names."""
        if now_s <= self._first_end_s:
            return []
        over = [member for member in self if member.lease_until_s < now_s]
        going_on = (member.lease_until_s for member in self._live.values() if member.lease_until_s >= now_s)
        self._first_end_s = min(going_on, default=math.inf)
        return over

    def saved(self) -> dict[str, Any]:
        """The epoch counter, live and gone workers as plain values; leases are not part of it."""
        return {
            "last_epoch": self.last_epoch,
            "live": [[member.worker, member.epoch, member.rejections] for member in self],
            "gone": [[member.worker, member.epoch, member.gone, member.rejections] for member in self._gone.values()],
        }

    def restore(self, saved: dict[str, Any], now_s: float) -> None:
        """Take over saved members, the live ones under full leases. The epoch counter falls neither way."""
        self.last_epoch = max(self.last_epoch, int(saved["last_epoch"]))
        until_s = now_s + self.lease_s
        self._live = {
            worker: Member(worker, epoch, until_s, now_s, rejections=rejections)
            for worker, epoch, rejections in saved["live"]
        }
        self._names, self._first_end_s = sorted(self._live), until_s
        self._gone = OrderedDict(
            (worker, Member(worker, epoch, now_s, now_s, how, rejections))
            for worker, epoch, how, rejections in saved["gone"]
        )

    def forget_all(self) -> None:
        """Nobody is a member any more."""
        self._live.clear()
        self._names.clear()
        self._gone.clear()


def not_joined(worker: str, epoch: int) -> Refused:
    """Refused(NOT_JOINED)."""
    text = f"expected a worker that has joined, got {worker!r} with epoch {epoch}: join first"
    return Refused("NOT_JOINED", text, worker=worker, epoch=epoch)
