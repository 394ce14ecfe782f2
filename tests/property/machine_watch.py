"""The core and the model in machine_model.py get the same events: what either does, the other must.

Beside that prediction, which is exact, what must hold of any history is checked by itself, in `Watched._book`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine
from optimd_server.core import JobMachine
from optimd_server.core.effects import (
    Answered,
    Apply,
    DropStaging,
    Effect,
    Joined,
    MemberRecord,
    Outcome,
    OutcomeRecord,
    Pending,
    Prepare,
    Proceed,
    RoundRecord,
    Status,
    Updated,
)
from optimd_server.core.events import Applied, Event, Version
from optimd_server.core.saved import saved_state
from optimdpb.errors import Refused
from optimdpb.specs import Sync

from tests.property.machine_model import JobModel
from tests.property.machine_parts import Due, Key, Refusal
from tests.property.machine_rounds import SyncModel

# Byte order is neither that of letters nor that of numbers.
NAMES = ["w2", "w10", "B", "a", "é"]


class Watched(RuleBasedStateMachine):
    """Jobs of one name.

    `epochs`: all a worker was given; `answered`: every answer told for the first time, `applied`: the step of every
    contribution; `command`: what the shards have not answered yet; `sound`: no check has failed.
    """

    machine: JobMachine
    model: JobModel

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.epochs: dict[str, list[int]] = {name: [] for name in NAMES}
        self.last_epoch = 0
        self.lineages = ["lineage-0"]
        self.answered: dict[Key, Outcome] = {}
        self.applied: dict[Key, int] = {}
        self.command: Prepare | Apply | None = None
        self.sound = False

    def send(self, event: Event) -> list[Effect] | None:
        """One event to the core and to the model; None if it was refused."""
        assert self.sound
        self.sound = False
        effects = self._both(event)
        self._compare_states()
        self.sound = True
        return effects

    def _both(self, event: Event) -> list[Effect] | None:
        before, step = saved_state(self.machine), self.machine.version.step
        refused = ""
        try:
            effects = self.machine.handle(event, self.now_s)
        except Refused as error:
            refused = error.reason
        if refused:
            with pytest.raises(Refusal) as expected:
                self.model.after(event, self.now_s)
            assert expected.value.reason == refused
            assert saved_state(self.machine) == before, "a refused event changed something"
            return None
        self.machine.check_invariants()
        joined = [effect for effect in effects if isinstance(effect, Joined)]
        due = self.model.after(event, self.now_s, joined[0].epoch if joined else 0)
        assert [(e.rank, e.world_size) for e in joined] == ([due.rank] if due.rank else [])
        for answer in joined:
            self._joined(answer)
        self._book(event, effects, step)
        self._compare(event, effects, due)
        return effects

    def _joined(self, answer: Joined) -> None:
        assert answer.epoch > self.last_epoch, "an epoch was given out again"
        self.last_epoch = answer.epoch
        self.epochs[answer.worker].append(answer.epoch)

    def _book(self, event: Event, effects: list[Effect], step: int) -> None:
        """What holds of any history, by the effects alone."""
        spec, now = self.machine.state.spec, self.machine.version.step
        assert now == step + isinstance(event, Applied)
        assert self.model.steps_max is None or now <= self.model.steps_max
        for effect in effects:
            if isinstance(effect, Answered):
                key = effect.worker, effect.epoch, effect.outcome.seq
                assert (key in self.answered) == effect.duplicate, f"{key} was answered twice, or never before"
                assert self.answered.setdefault(key, effect.outcome) == effect.outcome
                assert (key in self.applied) == (effect.outcome.status is Status.APPLIED)
            elif isinstance(effect, Prepare | Apply):
                assert self.command is None, "one update at a time"
                assert effect.step == now
                self.command = effect
                workers = [part.worker for part in effect.contributions]
                assert len(set(workers)) == len(workers) >= 1
                if isinstance(spec.consistency, Sync):
                    assert all(part.base_step == now for part in effect.contributions)
                else:
                    assert len(workers) == 1
            elif isinstance(effect, RoundRecord):
                assert isinstance(event, Applied)
                assert event.step == effect.step == step
                for part in effect.contributions:
                    key = part.worker, part.epoch, part.seq
                    assert key not in self.applied, f"{key} was applied twice"
                    assert key not in self.answered
                    self.applied[key] = step
        assert isinstance(event, Applied) == any(isinstance(effect, RoundRecord) for effect in effects)

    def _compare(self, event: Event, effects: list[Effect], due: Due) -> None:
        """The effects are those that the model foretold."""
        settled = [(e.worker, e.epoch, e.outcome) for e in effects if isinstance(e, OutcomeRecord)]
        for record in effects:
            if isinstance(record, RoundRecord):
                assert record.loss == pytest.approx(due.loss)
                settled += record.outcomes
        got = {(worker, epoch, outcome.seq): outcome for worker, epoch, outcome in settled}
        assert len(got) == len(settled)
        assert {key: dataclasses.replace(outcome, detail="") for key, outcome in got.items()} == due.settled
        assert all(bool(outcome.detail) == (outcome.status is not Status.APPLIED) for outcome in got.values())
        changes = [(e.revision, e.at_step) for e in effects if isinstance(e, Updated)]
        assert changes == ([due.change] if due.change else [])
        told = [e for e in effects if isinstance(e, Answered) and not e.duplicate]
        assert {(e.worker, e.epoch, e.outcome.seq) for e in told} == due.told
        reply = [
            "proceed" if isinstance(e, Proceed) else "pending" if isinstance(e, Pending) else "duplicate"
            for e in effects
            if isinstance(e, Proceed | Pending) or (isinstance(e, Answered) and e.duplicate)
        ]
        assert reply == ([due.reply] if due.reply else [])
        assert [(e.worker, e.epoch, e.change) for e in effects if isinstance(e, MemberRecord)] == due.members
        assert {(e.worker, e.epoch) for e in effects if isinstance(e, DropStaging)} == due.freed
        commands = [e for e in effects if isinstance(e, Prepare | Apply)]
        assert len(commands) == len(due.commands)
        for command, expected in zip(commands, due.commands, strict=True):
            assert command.step == expected.step
            assert tuple(map(dataclasses.astuple, command.contributions)) == expected.parts
            assert isinstance(command, Apply) == (expected.rate is not None)
            if isinstance(command, Apply):
                assert command.scalars[0, 0] == np.float32(expected.rate)
                assert command.limits[0, 0] == np.float32(expected.limit)

    def _compare_states(self) -> None:
        """Whatever can be asked is answered as the model says."""
        machine, model = self.machine, self.model
        machine.check_invariants()
        assert machine.version == Version(model.lineage, model.step)
        assert machine.state.finished == model.finished
        live = [(member.worker, member.epoch, member.rejections) for member in machine.state.members]
        assert live == [(name, model.live[name].epoch, model.live[name].rejections) for name in model.names]
        counters = dataclasses.asdict(machine.state.counters)
        assert counters == {name: model.counts[name] for name in counters}
        for (worker, epoch), account in model.accounts.items():
            assert machine.outcome_of(worker, epoch, account.taken + 1) is None
            last = machine.outcome_of(worker, epoch, account.taken) if account.taken else None
            if model.is_pending((worker, epoch)):
                assert last == Pending()
            elif account.taken:
                assert last == self.answered[worker, epoch, account.taken]
        words = machine.waiting_for(self.now_s)
        if isinstance(model, SyncModel):
            assert bool(words) == (not model.finished and model.update is None)
            if words and model.members is not None and len(model.live) >= model.least:
                assert {name for name in NAMES if f"{name} (" in words} == set(model.awaited())
        else:
            assert bool(words) == bool(model.untold or not (model.finished or model.update or model.live))
