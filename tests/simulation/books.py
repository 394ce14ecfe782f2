"""What the operators asked for, from outside: which rate a step must have, when nothing may be updated."""

from __future__ import annotations

from dataclasses import dataclass

from optimd_server.core.effects import Effect, Updated
from optimd_server.core.events import Event, Kept, PutBack, RangeTestRequested, UpdateRequested, UploadCompleted
from optimd_server.schedules import value_at
from optimdpb.specs import JobSpec, Schedule


@dataclass(frozen=True)
class Taken:
    """A change as it was answered."""

    request_id: str
    revision: int
    at_step: int
    schedules: dict[str, Schedule]
    paused: bool | None
    steps_max: int | None


class Books:
    """Changes and range tests of one job over all server processes. lineages: of this name, earlier jobs included."""

    def __init__(self, spec: JobSpec, lineages: set[str]) -> None:
        self._spec = spec
        self.changes: list[Taken] = []
        self.wanted: RangeTestRequested | None = None
        self.first_step: int | None = None
        self.lineages = lineages

    @property
    def revision(self) -> int:
        """Of the last change."""
        return len(self.changes)

    @property
    def steps_max(self) -> int | None:
        """Where the job ends."""
        asked = [change.steps_max for change in self.changes if change.steps_max is not None]
        return [self._spec.steps_max, *asked][-1]

    def finished(self, step: int) -> bool:
        """Whether it has ended."""
        return self.steps_max is not None and step >= self.steps_max and not self.sweeping

    @property
    def sweeping(self) -> bool:
        """Whether a range test makes the updates."""
        return self.first_step is not None

    @property
    def may_pause(self) -> bool:
        """Whether the last word on a pause, at any step, is that there is one."""
        words = sorted((c.at_step, c.revision, c.paused) for c in self.changes if c.paused is not None)
        return bool(words) and bool(words[-1][2])

    def took(self, event: Event, effects: list[Effect], step: int, lineage: str) -> None:
        """One event and what came of it; step and lineage: of the job before it."""
        match event:
            case UpdateRequested():
                answer = next(effect for effect in effects if isinstance(effect, Updated))
                self._update(event, answer)
            case RangeTestRequested():
                if not self.sweeping and (self.wanted is None or event.request_id != self.wanted.request_id):
                    self.wanted = event
            case UploadCompleted():
                assert lineage not in self.lineages, "a job begins under a lineage that was there before"
                self.lineages.add(lineage)
            case Kept(done=True):
                self.first_step = step
            case PutBack():
                assert self.wanted is not None
                assert event.step == self.first_step, f"put back to {event.step}, put aside at {self.first_step}"
                assert lineage not in self.lineages, "the lineage that ended comes again"
                self.lineages.add(lineage)
                self.wanted = self.first_step = None

    def _update(self, event: UpdateRequested, answer: Updated) -> None:
        known = next((change for change in self.changes if change.request_id == event.request_id), None)
        if known is not None:
            same = (answer.revision, answer.at_step) == (known.revision, known.at_step)
            assert same, f"{event.request_id} was answered {known}, then {answer}"
            return
        assert answer.revision == self.revision + 1, f"revision {answer.revision} after {self.revision}"
        assert event.at_step in (None, answer.at_step)
        schedules = dict(event.schedules)
        taken = Taken(event.request_id, answer.revision, answer.at_step, schedules, event.paused, event.steps_max)
        self.changes.append(taken)

    def check(self, step: int, rate: float) -> None:
        """An update of this step was made with this rate."""
        if self.first_step is not None:
            assert self.wanted is not None
            wanted, place = self.wanted, step - self.first_step
            share = place / (wanted.steps - 1)
            expected = (
                wanted.lr_start + (wanted.lr_end - wanted.lr_start) * share
                if wanted.sweep == "linear"
                else wanted.lr_start * (wanted.lr_end / wanted.lr_start) ** share
            )
            assert abs(rate - expected) <= 1e-12 * expected, f"sweep step {place} had lr {rate}, not {expected}"
            assert place < wanted.steps, f"sweep step {place} of {wanted.steps}"
            return
        schedule, paused = self._spec.optimizer.lr, False
        for change in sorted(self.changes, key=lambda change: (change.at_step, change.revision)):
            if change.at_step <= step:
                schedule = change.schedules.get("lr", schedule)
                paused = paused if change.paused is None else change.paused
        assert not paused, f"step {step} was made while the job is paused"
        expected = value_at(schedule, step)
        assert rate == expected, f"step {step} had lr {rate}, not {expected}"

    def restarted(self, revision: int, lineage: str) -> None:
        """Another process: what came after its snapshot is forgotten, and no test is on its way."""
        del self.changes[revision:]
        self.lineages.add(lineage)
        self.wanted = self.first_step = None
