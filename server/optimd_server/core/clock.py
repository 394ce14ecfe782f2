"""The clock of a job: which learning rate and hyper-parameters hold at a global step, and what changes them.

Values are read once for each round, at its close, so every push of round t sees the same. A change holds from an exact
step on: the update of that step is the first one made with it. As a value of the coordinator that goes out with each
Apply, it holds for all shards at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimdpb.errors import InvalidSpec, Refused
from optimdpb.specs import Group, Optimizer, Schedule
from optimdpb.specs.checks import STEPS_MAX
from optimdpb.specs.compound import plateaus
from optimdpb.specs.schedules import as_schedule
from optimdpb.specs.text import schedule_from_text, schedule_to_text

from optimd_server.core.effects import Updated
from optimd_server.core.events import UpdateRequested
from optimd_server.schedules import PlateauState, momentum_of, plateau_at, rate_of

# Changes whose step has not come, and requests that are known again.
PENDING_MAX = 100
REQUESTS_KEPT = 1000
# Of what is kept and shown of a change: a table of ten thousand points is no history.
WORDS_CHARACTERS_MAX = 300
LR = "lr"


@dataclass(frozen=True)
class Change:
    """A change that holds from at_step on. paused, steps_max: None leaves that as it is; the latter holds at once."""

    revision: int
    at_step: int
    schedules: tuple[tuple[str, Schedule], ...]
    paused: bool | None
    steps_max: int | None = None

    def words(self) -> str:
        """What it changes, cut off where it is very long."""
        text = self.text()
        return text if len(text) <= WORDS_CHARACTERS_MAX else text[: WORDS_CHARACTERS_MAX - 1] + "…"

    def text(self) -> str:
        """What it changes, all of it."""
        parts = [f"{name} = {schedule_to_text(schedule)}" for name, schedule in self.schedules]
        if self.paused is not None:
            parts.append("paused" if self.paused else "resumed")
        if self.steps_max is not None:
            parts.append(f"steps_max = {self.steps_max}")
        return ", ".join(parts)


class Clock:
    """Schedules in force, and changes to come.

    optimizer: the rule with the schedules in force. paused: no update is made. steps_max: the job's end, None for none.
    revision: number of changes asked for; pending: those to come, in the order in which they will hold; plateau: the
    state of the Plateau in lr, if there is.
    """

    def __init__(self, optimizer: Optimizer, groups: tuple[Group, ...] = (), steps_max: int | None = None) -> None:
        self._groups = groups
        self.steps_max = steps_max
        self.paused = False
        self.revision = 0
        self.pending: list[Change] = []
        self.plateau: PlateauState | None = None
        self._answers: dict[str, tuple[str, Updated]] = {}
        self._hold(optimizer)

    def _hold(self, optimizer: Optimizer) -> None:
        """These schedules are in force from now on; a Plateau starts afresh."""
        self.optimizer = optimizer
        lr = as_schedule(LR, optimizer.lr)
        self._rate = rate_of(lr, self._plateau_rate)
        self._values = {
            name: (rate_of(schedule), *schedule.bounds()) for name, schedule in optimizer.scheduled().items()
        }
        self._momentum = momentum_of(lr)
        self._momentum_name = optimizer.momentum_driven()
        self._has_plateau = bool(plateaus(lr))

    def _plateau_rate(self) -> float:
        assert self.plateau is not None, "a plateau gives the rate and has no state"
        return self.plateau.lr

    def rate(self, step: int) -> float:
        """lr of the update of a step, as things stand now."""
        self._start_plateau(step)
        return self._rate(step)

    def values(self, step: int) -> dict[str, float]:
        """Hyper-parameters other than lr that are scheduled, at a step."""
        # Rounding may take a value a hair beyond its bounds; the rule was checked at those.
        values = {name: min(max(rate(step), low), high) for name, (rate, low, high) in self._values.items()}
        momentum = None if self._momentum is None else self._momentum(step)
        if momentum is not None and self._momentum_name:
            values[self._momentum_name] = momentum
        return values

    def hear(self, step: int, loss: float | None) -> None:
        """The round of a step had this loss."""
        if not self._has_plateau or loss is None:
            return
        spec = plateau_at(as_schedule(LR, self.optimizer.lr), step)
        if spec is not None:
            self.plateau = (self.plateau or PlateauState.first(spec)).after(spec, loss)

    def _start_plateau(self, step: int) -> None:
        if self._has_plateau and self.plateau is None:
            spec = plateau_at(as_schedule(LR, self.optimizer.lr), step)
            self.plateau = None if spec is None else PlateauState.first(spec)

    def advance(self, step: int) -> list[Change]:
        """Let what holds from this step on hold. Returns it, in order."""
        due = [change for change in self.pending if change.at_step <= step]
        if due:
            self.pending = self.pending[len(due) :]
        for change in due:
            if change.paused is not None:
                self.paused = change.paused
            if change.schedules:
                self._hold(changed(self.optimizer, change.schedules))
                if LR in dict(change.schedules):
                    self.plateau = None
        return due

    def paused_at(self, step: int) -> bool:
        """Whether the update of a step is held back, by what was asked for so far."""
        asked = [change.paused for change in self.pending if change.at_step <= step and change.paused is not None]
        return [self.paused, *asked][-1]

    def known(self, event: UpdateRequested) -> Updated | None:
        """The first answer to this request, if it came before. Raises Refused if that one asked for something else."""
        found = self._answers.get(event.request_id)
        if found is None:
            return None
        if found[0] != _content(event):
            message = f"request_id: expected a new one, got {event.request_id!r}, which asked for {found[0]}"
            raise Refused("INVALID_UPDATE", message, field="request_id")
        return found[1]

    def request(self, event: UpdateRequested, earliest_step: int) -> tuple[Change, Updated]:
        """Take a change. earliest_step: the first whose update is not being made yet. Raises Refused."""
        if event.expected_revision is not None and event.expected_revision != self.revision:
            message = f"expected the job at revision {event.expected_revision}, it is at {self.revision}"
            raise Refused("REVISION_MISMATCH", message, expected=event.expected_revision, got=self.revision)
        if not event.schedules and event.paused is None and event.steps_max is None:
            message = "schedules: expected a schedule, a state or steps_max, got none of them"
            raise Refused("INVALID_UPDATE", message, field="schedules")
        steps_max = self.steps_max if event.steps_max is None else event.steps_max
        at_step = earliest_step if event.at_step is None else event.at_step
        self._check_step(event, at_step, earliest_step, steps_max)
        if len(self.pending) >= PENDING_MAX:
            message = f"expected at most {PENDING_MAX} changes to come, got one more"
            raise Refused(
                "LIMIT_EXCEEDED", message, limit="pending_max", limit_value=PENDING_MAX, value=PENDING_MAX + 1
            )
        change = Change(self.revision + 1, at_step, event.schedules, event.paused, event.steps_max)
        pending = sorted([*self.pending, change], key=lambda entry: (entry.at_step, entry.revision))
        optimizer, checked = self.optimizer, True
        for entry in pending:
            optimizer = changed(optimizer, entry.schedules)
            checked = checked and entry is not change
            if not checked:
                self._check_groups(optimizer)
        self.pending, self.revision, self.steps_max = pending, change.revision, steps_max
        answer = Updated(change.revision, at_step)
        self._answers[event.request_id] = (_content(event), answer)
        while len(self._answers) > REQUESTS_KEPT:
            del self._answers[next(iter(self._answers))]
        return change, answer

    def _check_groups(self, optimizer: Optimizer) -> None:
        """What groups set themselves must go with what is scheduled. Raises InvalidSpec."""
        settings = {group.hyper_parameters: place for place, group in reversed([*enumerate(self._groups)])}
        settings.pop((), None)  # they have the rule itself, which is checked
        for place in sorted(settings.values()):
            group = self._groups[place]
            try:
                group.optimizer(optimizer)
            except InvalidSpec as error:
                raise InvalidSpec(f"groups[{place}].{error.field}", error.problem) from None

    def _check_step(self, event: UpdateRequested, at_step: int, earliest_step: int, steps_max: int | None) -> None:
        if at_step < earliest_step:
            message = f"expected a step from {earliest_step} on, got {at_step}: its update is made or on its way"
            raise Refused("STEP_PASSED", message, at_step=at_step, earliest_step=earliest_step)
        last = STEPS_MAX if steps_max is None else steps_max - 1
        is_end = (
            event.at_step is None and event.steps_max is not None
        )  # it may be the step behind the update on its way
        if at_step > last and not is_end:
            message = f"at_step: expected at most {last}, the job's last update, got {at_step}"
            raise Refused("INVALID_UPDATE", message, field="at_step")
        if self.paused and event.paused is False and at_step > earliest_step:
            message = f"at_step: the job is paused at step {earliest_step} and would never reach {at_step}"
            raise Refused("INVALID_UPDATE", message, field="at_step")

    def schedules(self) -> dict[str, Schedule]:
        """Schedules in force by hyper-parameter, lr among them."""
        return {LR: as_schedule(LR, self.optimizer.lr), **self.optimizer.scheduled()}

    def saved(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "schedules": _plain(self.schedules()),
            "paused": self.paused,
            "revision": self.revision,
            "steps_max": self.steps_max,
            "pending": [{**vars(change), "schedules": _plain(dict(change.schedules))} for change in self.pending],
            "plateau": None if self.plateau is None else dataclasses.asdict(self.plateau),
            "answers": [
                [name, content, answer.revision, answer.at_step] for name, (content, answer) in self._answers.items()
            ],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over saved values. Raises KeyError, TypeError, ValueError for foreign ones."""
        schedules = _schedules(saved["schedules"])
        lr = schedules.pop(LR)
        self._hold(dataclasses.replace(self.optimizer, lr=lr, schedules=schedules))
        self.paused, self.revision = bool(saved["paused"]), int(saved["revision"])
        self.steps_max = saved.get("steps_max", self.steps_max)  # older snapshots have that of the specification
        self.pending = [
            Change(**{**entry, "schedules": tuple(_schedules(entry["schedules"]).items())})
            for entry in saved["pending"]
        ]
        self.plateau = None if saved["plateau"] is None else PlateauState(**saved["plateau"])
        self._answers = {name: (content, Updated(revision, step)) for name, content, revision, step in saved["answers"]}


def changed(optimizer: Optimizer, schedules: tuple[tuple[str, Schedule], ...]) -> Optimizer:
    """The rule with some schedules replaced. Raises InvalidSpec."""
    new = dict(schedules)
    lr = new.pop(LR, optimizer.lr)
    try:
        return dataclasses.replace(optimizer, lr=lr, schedules={**optimizer.scheduled(), **new})
    except InvalidSpec as error:
        field = error.field if error.field.startswith("schedules.") else f"schedules.{error.field}"
        raise InvalidSpec(field, error.problem) from None


def _content(event: UpdateRequested) -> str:
    """What a request asks for, apart from when it came."""
    asked = Change(0, 0, event.schedules, event.paused, event.steps_max)
    words = asked.words()
    digest = "" if words == asked.text() else f" ({hashlib.sha256(asked.text().encode()).hexdigest()})"
    return f"{words}{digest} at step {event.at_step}, expected revision {event.expected_revision}"


def _plain(schedules: Mapping[str, Schedule]) -> dict[str, str]:
    return {name: schedule_to_text(schedule) for name, schedule in schedules.items()}


def _schedules(plain: Mapping[str, str]) -> dict[str, Schedule]:
    return {name: schedule_from_text(text, characters_max=None) for name, text in plain.items()}
