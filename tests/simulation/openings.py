"""Sync from its definition: when a round may open, and that it closes neither too early nor too late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimd_server.core.effects import Apply, Effect, OutcomeRecord, Prepare, RoundRecord
from optimdpb.specs import Sync


@dataclass
class Opening:
    """`members`: live epochs by name as the round opened. `was_held`: it stood still for a while."""

    members: dict[str, int]
    opened_s: float
    was_held: bool = False


class Openings:
    """Follows the rounds of one job by its effects alone. `members_last`: members of the last round that opened."""

    def __init__(self, model: Sync) -> None:
        self.model = model
        self.opening: Opening | None = None
        self.opened = False
        self._closed_at_s: float | None = None
        self._rounds_void = 0
        self._early = self._held = False
        self.members_last = 0
        self.left: list[str] = []

    def restart(self, opened: bool, left: list[str]) -> None:
        """Another process: no round is open. `opened`: whether one ever was; `left`: who had left by the snapshot."""
        self.opening, self.opened, self._closed_at_s = None, opened, None
        self.left = list(left)

    @property
    def _size(self) -> int:
        """Workers that the job counts on."""
        return max(self.model.workers - len(self.left), self.model.workers_min or 0)

    @property
    def _least(self) -> int:
        return min(self.model.workers_min or self.model.quorum or self.model.workers, self._size)

    def member(self, worker: str, change: str, live: int) -> None:
        """A worker came or went; `live` are there now."""
        if change == "left" and live < self.model.workers - len(self.left):
            self.left.append(worker)
        if change == "joined" and len(self.left) == self.model.workers:
            self.left, self.opened = [], False
        if change == "joined":
            self.left = [name for name in self.left if name != worker]
            surplus = max(0, live - (self.model.workers - len(self.left)))
            self.left = self.left[surplus:]

    def took(
        self,
        effects: Sequence[Effect],
        live: dict[str, int],
        rounds_void: int,
        now_s: float,
        stalled_s: float,
        held: bool,
    ) -> None:
        """After one event, the books of live epochs brought up to date.

        rounds_void: the job's count of them; held: whether no round may open, the job being paused or between things.
        """
        self._held = held
        if rounds_void != self._rounds_void:
            self._rounds_void = rounds_void
            self.opening = self._closed_at_s = None
        for effect in effects:
            self._open(live, now_s - stalled_s)
            if isinstance(effect, Apply | Prepare) and self._closed_at_s is None:
                self._closed_at_s = now_s - stalled_s
                self._check_close(effect, live, now_s - stalled_s)
            elif isinstance(effect, RoundRecord):
                self._check_everybody(effect, effects, live)
                self.opening = self._closed_at_s = None
        self._open(live, now_s - stalled_s)
        if self.opening is not None and held:
            self.opening.was_held = True

    def _open(self, live: dict[str, int], now_s: float) -> None:
        needed = max(1, self._least if self.opened else self._size)
        if not self._held and self.opening is None and len(live) >= needed:
            self.opening, self.opened = Opening(dict(live), now_s), True
            self.members_last = len(live)

    def _check_close(self, command: Apply | Prepare, live: dict[str, int], now_s: float) -> None:
        opening = self.opening
        assert opening is not None, f"round {command.step} closes and never opened with {sorted(live)}"
        assert len(live) >= self._least, f"round {command.step} closes with {len(live)} live"
        for part in command.contributions:
            known = opening.members.get(part.worker) == part.epoch
            assert known, f"{part.worker} was no member of round {command.step}: {opening.members}"
        count, enough, model = len(command.contributions), self._enough, self.model
        if model.round_timeout_s is not None:
            self._early = now_s - opening.opened_s >= model.round_timeout_s - 1e-6 and count >= enough
        else:
            self._early = model.quorum is not None and count >= enough

    def check_moves(self, words: dict[tuple[str, int], bool], live: dict[str, int], now_s: float) -> None:
        """The round that is open waits for somebody. words: pushes without an outcome, and whether they are usable."""
        opening = self.opening
        if opening is None or self._held or self._closed_at_s is not None or len(live) < self._least:
            return
        spoken = {worker: words[worker, epoch] for worker, epoch in opening.members.items() if (worker, epoch) in words}
        waits = any(live.get(worker) == epoch and worker not in spoken for worker, epoch in opening.members.items())
        assert waits, f"all who are there have spoken, and the round of {sorted(opening.members)} does not close"
        timeout_s = self.model.round_timeout_s
        is_over = timeout_s is not None and now_s - opening.opened_s >= timeout_s + 1e-6 and not opening.was_held
        is_early = is_over or (timeout_s is None and self.model.quorum is not None)
        enough = sum(spoken.values()) >= self._enough
        assert not (is_early and enough), f"pushes of {sorted(spoken)} are enough, and the round does not close"

    @property
    def _enough(self) -> int:
        return min(self.model.quorum or self.model.workers_min or 1, self._size)

    def _check_everybody(self, record: RoundRecord, effects: Sequence[Effect], live: dict[str, int]) -> None:
        """Unless it closed early, each member contributed, was rejected in the round, or is gone."""
        opening = self.opening
        assert opening is not None
        told = {(worker, epoch) for worker, epoch, _ in record.outcomes}
        told |= {(effect.worker, effect.epoch) for effect in effects if isinstance(effect, OutcomeRecord)}
        missing = [
            worker
            for worker, epoch in opening.members.items()
            if (worker, epoch) not in told and live.get(worker) == epoch
        ]
        assert self._early or not missing, f"round {record.step} closed without {missing}"
