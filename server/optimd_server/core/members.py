"""Membership: who is live, under which epoch, until when.

Epochs come from one counter per job that never falls. A lease ends only in expire(), which the tick calls, so a stalled
server expires nobody before it has given back the time it slept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optimdpb.errors import EpochSuperseded, LeaseExpired, Refused

GONE_KEPT = 4096


@dataclass
class Member:
    """One worker under its newest epoch. `gone` is "" while it is live, else "left" or "expired"."""

    worker: str
    epoch: int
    lease_until_s: float
    seen_s: float
    gone: str = ""


class Members:
    """All workers of one job."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.last_epoch = 0
        self._live: dict[str, Member] = {}
        self._gone: OrderedDict[str, Member] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Member]:
        """Live members in byte order of names."""
        return iter([self._live[name] for name in sorted(self._live)])

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
        return member, superseded

    def check(self, worker: str, epoch: int) -> Member:
        """The live member of that epoch. Raises Refused(NOT_JOINED), EpochSuperseded, LeaseExpired."""
        member = self._live.get(worker) or self._gone.get(worker)
        if member is not None and epoch < member.epoch:
            raise EpochSuperseded(worker, epoch, member.epoch)
        if member is None or epoch != member.epoch or member.gone == "left":
            raise Refused(
                "NOT_JOINED",
                f"expected a worker that has joined, got {worker!r} with epoch {epoch}: join first",
                worker=worker,
                epoch=epoch,
            )
        if member.gone == "expired":
            raise LeaseExpired(worker, epoch)
        return member

    def is_live(self, worker: str, epoch: int) -> bool:
        """Whether that epoch is live."""
        member = self._live.get(worker)
        return member is not None and member.epoch == epoch

    def renew(self, member: Member, now_s: float) -> None:
        """The member was heard of."""
        member.lease_until_s, member.seen_s = now_s + self.lease_s, now_s

    def remove(self, member: Member, how: str) -> None:
        """The member left or expired."""
        member.gone = how
        del self._live[member.worker]
        self._gone[member.worker] = member
        while len(self._gone) > GONE_KEPT:
            self._gone.popitem(last=False)

    def extend(self, by_s: float) -> None:
        """Give every live member more time."""
        for member in self._live.values():
            member.lease_until_s += by_s

    def expired(self, now_s: float) -> list[Member]:
        """Live members whose lease is over, in byte order of names."""
        return [member for member in self if member.lease_until_s < now_s]

    def ranks(self) -> dict[str, int]:
        """Place of each live worker in byte order of names, from 0."""
        return {name: rank for rank, name in enumerate(sorted(self._live))}

    def saved(self) -> dict[str, Any]:
        """The epoch counter, live and gone workers as plain values; leases are not part of it."""
        return {
            "last_epoch": self.last_epoch,
            "live": [[member.worker, member.epoch] for member in self],
            "gone": [[member.worker, member.epoch, member.gone] for member in self._gone.values()],
        }

    def restore(self, saved: dict[str, Any], now_s: float) -> None:
        """Take over saved members, the live ones under full leases."""
        self.last_epoch = int(saved["last_epoch"])
        until_s = now_s + self.lease_s
        self._live = {worker: Member(worker, epoch, until_s, now_s) for worker, epoch in saved["live"]}
        self._gone = OrderedDict(
            (worker, Member(worker, epoch, now_s, now_s, how)) for worker, epoch, how in saved["gone"]
        )

    def forget_all(self, epochs_skipped: int) -> None:
        """Nobody is a member any more, and no epoch that may have been given out is given again."""
        self._live.clear()
        self._gone.clear()
        self.last_epoch += epochs_skipped
