"""The outcome table: what became of every push, so that a resent one is answered, never applied again.

Per (worker, epoch): the last seq taken, whether it is pending, and the last few outcomes. Bounded by counts, never by
time: a live epoch forgets its oldest outcomes, a dead one keeps its last, dead epochs are forgotten oldest first. An
epoch number is never used again, so a forgotten one cannot be re-opened.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from optimdpb.errors import Refused

from optimd_server.core.effects import Outcome, Reason, Status

# One push is in flight per worker, so the last outcome is enough; a few more help whoever reads back.
OUTCOMES_KEPT = 4
DEAD_EPOCHS_KEPT = 4096
# Epochs of a server hold the number of its start, from 1, above so many bits: none is lower.
EPOCHS_PER_START_BITS = 32


@dataclass
class Account:
    """Pushes of one epoch. `last_seq` is taken: pending or with an outcome."""

    last_seq: int = 0
    pending: bool = False
    outcomes: deque[Outcome] = field(default_factory=lambda: deque(maxlen=OUTCOMES_KEPT))

    def outcome(self, seq: int) -> Outcome | None:
        """The stored outcome of a seq."""
        return next((outcome for outcome in reversed(self.outcomes) if outcome.seq == seq), None)


class Ledger:
    """Accounts of all remembered epochs of one job."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, int], Account] = {}
        self._dead: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._forgotten_first, self._forgotten_last = 1, 0

    def start(self, epochs_from: int) -> None:
        """No epoch given out from here on is lower; what was given out before may be forgotten."""
        starts = epochs_from >> EPOCHS_PER_START_BITS
        self._forgotten_first = 1 << EPOCHS_PER_START_BITS if starts else 1
        self._forgotten_last = epochs_from - 1

    def was_given(self, worker: str, epoch: int) -> bool:
        """Whether the worker has had that epoch, or may have had it and it is forgotten."""
        return (worker, epoch) in self._accounts or self._forgotten_first <= epoch <= self._forgotten_last

    def open(self, worker: str, epoch: int) -> None:
        """Start the account of a fresh epoch."""
        self._accounts[worker, epoch] = Account()

    def retire(self, worker: str, epoch: int) -> None:
        """The epoch is over; its account is kept for a while. Pending accounts outlive the bound until answered."""
        account = self._accounts[worker, epoch]
        account.outcomes = deque(list(account.outcomes)[-1:], maxlen=1)
        self._dead[worker, epoch] = None
        for _ in range(len(self._dead) - DEAD_EPOCHS_KEPT):
            key, _ = self._dead.popitem(last=False)
            if self._accounts[key].pending:
                self._dead[key] = None  # to the end of the row: its outcome is still to come
            else:
                del self._accounts[key]
                self._forgotten_last = max(self._forgotten_last, key[1])

    def find(self, worker: str, epoch: int) -> Account | None:
        """The account of an epoch, if remembered."""
        return self._accounts.get((worker, epoch))

    def take(self, worker: str, epoch: int, seq: int) -> None:
        """Mark the next seq of an epoch as pending."""
        account = self._accounts[worker, epoch]
        assert not account.pending, f"{worker} epoch {epoch} took seq {seq} with {account.last_seq} pending"
        assert seq == account.last_seq + 1, f"{worker} epoch {epoch} took seq {seq} after {account.last_seq}"
        account.last_seq, account.pending = seq, True

    def settle(self, worker: str, epoch: int, outcome: Outcome) -> None:
        """Store the outcome of the pending seq."""
        account = self._accounts[worker, epoch]
        assert account.pending, f"{worker} epoch {epoch} settled seq {outcome.seq} twice"
        assert account.last_seq == outcome.seq, f"{worker} epoch {epoch} settled seq {outcome.seq}, not the pending one"
        account.pending = False
        account.outcomes.append(outcome)

    def check_next(self, account: Account, seq: int, *, withheld: bool) -> Outcome | None:
        """None if `seq` is the next one or in flight; its outcome if it is a duplicate. Raises Refused.

        In flight: without an outcome, or with one that is withheld.
        """
        in_flight = account.pending or withheld
        if seq > account.last_seq + 1:
            expected = account.last_seq + 1
            raise Refused(
                "SEQ_GAP", f"expected seq {expected} as the next one, got {seq}", expected_seq=expected, seq=seq
            )
        if seq == account.last_seq + 1:
            if in_flight:
                raise Refused(
                    "PUSH_IN_FLIGHT",
                    f"expected the outcome of seq {account.last_seq} to be awaited first, got seq {seq}",
                    pending_seq=account.last_seq,
                    seq=seq,
                )
            return None
        if seq == account.last_seq and in_flight:
            return None
        return self.recall(account, seq)

    @staticmethod
    def recall(account: Account, seq: int) -> Outcome:
        """The outcome of a settled seq. Raises Refused(SEQ_FORGOTTEN)."""
        outcome = account.outcome(seq)
        if outcome is None:
            oldest = account.outcomes[0].seq if account.outcomes else account.last_seq + 1
            raise Refused(
                "SEQ_FORGOTTEN",
                f"seq {seq} was consumed and is no longer remembered; the oldest remembered is {oldest}",
                oldest_seq=oldest,
                seq=seq,
            )
        return outcome

    def settled(self, worker: str, epoch: int, seq: int) -> Outcome | None:
        """The outcome of a push, None if it has none. Raises Refused(SEQ_FORGOTTEN)."""
        account = self.find(worker, epoch)
        if account is None or seq > account.last_seq - account.pending:
            return None
        return self.recall(account, seq)

    def saved(self) -> list[dict[str, Any]]:
        """All accounts as plain values, dead ones in the order of their death. What is pending was never taken."""
        living = [key for key in self._accounts if key not in self._dead]
        return [
            {
                "worker": worker,
                "epoch": epoch,
                "dead": (worker, epoch) in self._dead,
                "last_seq": self._accounts[worker, epoch].last_seq - self._accounts[worker, epoch].pending,
                "outcomes": [_plain(outcome) for outcome in self._accounts[worker, epoch].outcomes],
            }
            for worker, epoch in [*living, *self._dead]
        ]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Take over saved accounts."""
        for entry in saved:
            key = entry["worker"], entry["epoch"]
            outcomes = deque(map(_outcome, entry["outcomes"]), maxlen=1 if entry["dead"] else OUTCOMES_KEPT)
            self._accounts[key] = Account(int(entry["last_seq"]), False, outcomes)
            if entry["dead"]:
                self._dead[key] = None


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {**vars(outcome), "status": outcome.status.value, "reason": outcome.reason.value}


def _outcome(saved: dict[str, Any]) -> Outcome:
    return Outcome(**{**saved, "status": Status(saved["status"]), "reason": Reason(saved["reason"])})
