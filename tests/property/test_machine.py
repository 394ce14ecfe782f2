"""The core through its events alone: whatever comes in whatever order, it does what the model in machine_model.py says.

Beside that prediction, which is exact, what must hold of any history is checked by itself, in `Life._book`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
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
)
from optimd_server.core.events import (
    Applied,
    CreateRequested,
    Event,
    JoinRequested,
    LeaveRequested,
    Prepared,
    Push,
    PushCommitted,
    PushOffered,
    SignOfLife,
    Ticked,
    UploadCompleted,
    Version,
)
from optimd_server.core.saved import restore, saved_state
from optimdpb.errors import Refused
from optimdpb.specs import SGD, Async, ClipGlobalNorm, Constant, JobSpec, Layout, Linear, Ssp, Sync, Tensor

from tests.property.machine_model import Due, Key, Refusal, SyncModel, model_of

LEASE_S = 10.0
TICK_S = 1.0
NORM_MAX = 1.5
# Byte order is neither that of letters nor that of numbers.
NAMES = ["w2", "w10", "B", "a", "é"]
FAR_STEP = 5

places = st.integers(0, len(NAMES) - 1)
quarters = st.integers(1, 60).map(lambda n: n / 4)
# (base, magnitude): what is wrong with a push, if anything.
flaws = st.sampled_from(
    [
        *[("before", 1.0), ("long before", 1.0), ("future", 1.0), ("other lineage", 1.0)],
        *[("now", size) for size in (1.2e18, 1e30, math.nan, math.inf)],
    ]
)
weights = st.sampled_from([1.0, 3.0, 1e-3, 250.5])
losses = st.sampled_from([None, 0.25, 2.0, math.nan])


@st.composite
def models(draw: st.DrawFn) -> Sync | Async | Ssp:
    """A consistency model."""
    kind = draw(st.sampled_from([Sync, Sync, Async, Ssp]))
    if kind is Ssp:
        return Ssp(draw(st.integers(0, 3)))
    if kind is Async:
        return Async(draw(st.sampled_from([None, 0, 1, 3])), draw(st.sampled_from(["none", "inverse"])))
    workers = draw(st.integers(1, 4))
    quorum = draw(st.none() | st.integers(1, workers))
    workers_min = draw(st.none() | st.integers(1, workers))
    useful = quorum is not None or workers_min != workers
    return Sync(workers, workers_min, quorum, draw(st.sampled_from([None, 1.0, 3.0])) if useful else None)


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    """A job."""
    return JobSpec(
        Layout((Tensor("w", (3,)),)),
        SGD(draw(st.sampled_from([0.5, Constant(0.25), Linear(1.0, 0.0, 4)]))),
        draw(models()),
        reduction=draw(st.sampled_from(["mean", "mean", "sum"])),
        clip=draw(st.sampled_from([None, ClipGlobalNorm(NORM_MAX)])),
        steps_max=draw(st.sampled_from([None, None, 2, 6])),
        rejections_max=draw(st.sampled_from([None, 1, 2])),
    )


class Life(RuleBasedStateMachine):
    """One job from its creation on, over restarts.

    `epochs`: all a worker was given; `answered`: every answer told for the first time, `applied`: the step of every
    contribution; `command`: what the shards have not answered yet; `sound`: no check has failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.epochs: dict[str, list[int]] = {name: [] for name in NAMES}
        self.last_epoch = 0
        self.lineages = ["lineage-0"]
        self.drafts: dict[str, Push] = {}
        self.answered: dict[Key, Outcome] = {}
        self.applied: dict[Key, int] = {}
        self.command: Prepare | Apply | None = None
        self.snapshot: tuple[Any, Any] | None = None
        self.sound = False

    @initialize(spec=specs(), seconds=quarters, joiners=st.lists(st.sampled_from(NAMES), unique=True))
    def create(self, spec: JobSpec, seconds: float, joiners: list[str]) -> None:
        self.machine = JobMachine(spec, lease_s=LEASE_S, tick_interval_s=TICK_S)
        self.model = model_of(spec, LEASE_S, TICK_S, self.lineages[0], self.now_s)
        self.machine.handle(CreateRequested("creator"), self.now_s)
        self.last_epoch = self.machine.state.creation.token
        self.machine.handle(UploadCompleted(self.last_epoch, self.lineages[0]), self.now_s)
        self.sound = True
        self.now_s += seconds
        for name in joiners:
            self.send(JoinRequested(name))

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        self.send(JoinRequested(name))

    @precondition(lambda self: self.model.live)
    @rule(place=places, failed=st.sampled_from([False, False, True]))
    def leave(self, place: int, failed: bool) -> None:
        self.send(LeaveRequested(*self._live(place), failed))

    @precondition(lambda self: self.model.live)
    @rule(place=places)
    def sign_of_life(self, place: int) -> None:
        self.send(SignOfLife(*self._live(place)))

    @rule(name=st.sampled_from(NAMES), back=st.integers(-1, 3), what=st.sampled_from(["sign", "leave", "push"]))
    def stranger(self, name: str, back: int, what: str) -> None:
        """Something from an epoch that may be over, or never was."""
        epochs = self.epochs[name]
        epoch = epochs[-1 - back] if 0 <= back < len(epochs) else self.last_epoch + 1 if back < 0 else 0
        if what == "push":
            account = self.model.accounts.get((name, epoch))
            seq = 1 if account is None else account.taken + 1
            self._offer_and_commit(Push(name, epoch, seq, self.machine.version, 1.0), 1.0)
        else:
            self.send(SignOfLife(name, epoch) if what == "sign" else LeaveRequested(name, epoch))

    @rule(seconds=quarters)
    def pass_time(self, seconds: float) -> None:
        """Nothing comes, not even a tick."""
        self.now_s += seconds

    @rule(seconds=quarters)
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.send(Ticked())

    @rule(ticks=st.integers(2, 12), speaking=st.sets(places))
    def silence(self, ticks: int, speaking: set[int]) -> None:
        """Time passes, and only some are heard of."""
        heard = [name for place, name in enumerate(self.model.names) if place in speaking]
        for _ in range(ticks):
            self.now_s += TICK_S
            for name in heard:
                if name in self.model.live:
                    self.send(SignOfLife(name, self.model.live[name].epoch))
            self.send(Ticked())

    @rule(seconds=quarters, ticks=st.integers(0, 12))
    def stall(self, seconds: float, ticks: int) -> None:
        """The server slept; everybody is heard of once, then nobody."""
        self.tick(seconds)
        for name in list(self.model.live):
            self.send(SignOfLife(name, self.model.live[name].epoch))
        for _ in range(ticks):
            self.tick(TICK_S)

    @precondition(lambda self: self.model.live)
    @rule(place=places, weight=weights, loss=losses, how=st.sampled_from(["both", "both", "offer", "commit", "draft"]))
    def push(self, place: int, weight: float, loss: float | None, how: str) -> None:
        """A worker's next push: offered and committed, only one of it, or committed later."""
        push = self._next_push(*self._live(place), weight=weight, loss=loss)
        if how in ("both", "offer", "draft") and not self._offer(push):
            return
        if how == "draft":
            self.drafts[push.worker] = push
        elif how != "offer":
            self.send(PushCommitted(push, 1.0))

    @precondition(lambda self: self.model.live)
    @rule(place=places, flaw=flaws, weight=weights)
    def flawed_push(self, place: int, flaw: tuple[str, float], weight: float) -> None:
        """A next push that is late, of elsewhere, or no gradient."""
        self._offer_and_commit(self._next_push(*self._live(place), base=self._base(flaw[0]), weight=weight), flaw[1])

    @precondition(lambda self: self.drafts)
    @rule(place=places)
    def commit_draft(self, place: int) -> None:
        """What was staged a while ago is committed."""
        names = sorted(self.drafts)
        self.send(PushCommitted(self.drafts.pop(names[place % len(names)]), 1.0))

    @precondition(lambda self: self.model.live)
    @rule(
        weights=st.lists(weights, min_size=len(NAMES), max_size=len(NAMES)),
        flawed=st.dictionaries(places, flaws, max_size=2),
        promptly=st.booleans(),
    )
    def everybody_pushes(self, weights: list[float], flawed: dict[int, tuple[str, float]], promptly: bool) -> None:
        """Every worker that may sends a push; `promptly`: the shards are done before the next one comes."""
        for place, (name, weight) in enumerate(zip(self.model.names, weights, strict=False)):
            if name in self.model.live and not self.model.is_pending((name, self.model.live[name].epoch)):
                base, magnitude = flawed.get(place, ("now", 1.0))
                push = self._next_push(name, self.model.live[name].epoch, base=self._base(base), weight=weight)
                self._offer_and_commit(push, magnitude)
            while promptly and self.command is not None:
                self.deliver(9.0)

    @precondition(lambda self: self.model.live)
    @rule(place=places, back=st.sampled_from([0, 0, 1, 3, 20]), offer=st.booleans())
    def resend(self, place: int, back: int, offer: bool) -> None:
        """A seq that was taken, whatever it holds now."""
        worker, epoch = self._live(place)
        taken = self.model.accounts[worker, epoch].taken
        if taken:
            push = Push(worker, epoch, max(1, taken - back), self.machine.version, 1.0)
            self.send(PushOffered(push) if offer else PushCommitted(push, math.nan))

    @precondition(lambda self: self.model.live)
    @rule(
        place=places,
        wrong=st.sampled_from(
            [{"seq": 0}, {"seq": -1}, {"weight": 0.0}, {"weight": math.nan}, {"weight": math.inf}, {}]
        ),
        gap=st.integers(1, 3),
    )
    def malformed(self, place: int, wrong: dict[str, Any], gap: int) -> None:
        """A seq too far on, or a push that cannot be."""
        push = self._next_push(*self._live(place))
        push = dataclasses.replace(push, **(wrong or {"seq": push.seq + gap}))
        for event in (PushOffered(push), PushCommitted(push, 1.0)):
            assert self.send(event) is None

    @precondition(lambda self: self.command)
    @rule(square_sum=st.sampled_from([0.25, 2.25, 9.0]))
    def deliver(self, square_sum: float) -> None:
        """The shards are done with what they were told to do."""
        command, self.command = self.command, None
        assert command is not None
        if isinstance(command, Prepare):
            self.send(Prepared(command.step, np.full((1, 1), square_sum)))
        else:
            self.send(Applied(command.step))

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = json.loads(json.dumps(saved_state(self.machine))), self.model.photo()

    @rule(
        lossy=st.sampled_from([False, False, True]), now_s=st.sampled_from([7.0, 1e6]), skipped=st.sampled_from([0, 9])
    )
    def restart(self, lossy: bool, now_s: float, skipped: int) -> None:
        """A server on another clock goes on from this moment, or without what came after the last snapshot."""
        if self.snapshot is None or not lossy:
            self.take_snapshot()
        assert self.snapshot is not None
        saved, photo = self.snapshot
        self.now_s, self.command = now_s, None
        epochs_from = self.last_epoch + 1 + skipped if lossy or skipped else 1
        self.machine = JobMachine(
            self.machine.state.spec, lease_s=LEASE_S, tick_interval_s=TICK_S, epochs_from=epochs_from
        )
        if lossy:
            self.lineages.append(f"lineage-{len(self.lineages)}")
            self.model.lose(now_s, photo, self.lineages[-1])
        else:
            self.model.restart(now_s)
        restore(self.machine, json.loads(json.dumps(saved)), now_s, self.lineages[-1] if lossy else None)
        self._compare_states()

    def teardown(self) -> None:
        """It can go on: with everything delivered and good gradients from everybody live, some step happens."""
        if not self.sound:
            return
        before = self.machine.version.step
        for _ in range(6):
            while self.command is not None:
                self.deliver(9.0)
            for name in self.model.names:
                life = self.model.live.get(name)
                if life is not None and not self.model.is_pending((name, life.epoch)):
                    self._offer_and_commit(self._next_push(name, life.epoch), 1.0)
        while self.command is not None:
            self.deliver(9.0)
        if self.machine.version.step == before and not self.model.finished:
            needed = self.model.needed if isinstance(self.model, SyncModel) else 1
            assert len(self.model.live) < needed, "enough workers push and nothing happens"
            assert self.machine.waiting_for(self.now_s)

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
        assert spec.steps_max is None or now <= spec.steps_max
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

    def _live(self, place: int) -> tuple[str, int]:
        names = self.model.names
        name = names[place % len(names)]
        return name, self.model.live[name].epoch

    def _base(self, base: str) -> Version:
        step = self.machine.version.step
        if base == "other lineage":
            return Version(self.lineages[-2] if len(self.lineages) > 1 else "foreign", step)
        return Version(
            self.lineages[-1], max(0, step + {"before": -1, "long before": -FAR_STEP, "future": 1}.get(base, 0))
        )

    def _next_push(
        self, worker: str, epoch: int, base: Version | None = None, weight: float = 1.0, loss: float | None = None
    ) -> Push:
        seq = self.model.accounts[worker, epoch].taken + 1
        return Push(worker, epoch, seq, base or self.machine.version, weight, loss)

    def _offer(self, push: Push) -> bool:
        """Whether its payload is wanted."""
        effects = self.send(PushOffered(push))
        return effects is not None and any(isinstance(effect, Proceed) for effect in effects)

    def _offer_and_commit(self, push: Push, magnitude: float) -> None:
        if self._offer(push):
            self.send(PushCommitted(push, magnitude))


def run(**values: Any) -> None:
    """Lives of jobs under these settings."""
    healthy = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(Life, settings=settings(deadline=None, suppress_health_check=healthy, **values))


@pytest.mark.timeout(600)  # for shrinking, if it fails
def test_whatever_happens_the_core_does_what_the_model_says() -> None:
    run(max_examples=300, stateful_step_count=50, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_whatever_happens_for_long_the_core_does_what_the_model_says() -> None:
    run(max_examples=8000, stateful_step_count=80, print_blob=True)
