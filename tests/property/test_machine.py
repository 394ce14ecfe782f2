"""The core through its events alone: whatever comes in whatever order, it does what the model in machine_model.py says.

See machine_watch.py for how it is held to that.
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
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from optimd_server.core import JobMachine
from optimd_server.core.effects import Prepare, Proceed, UploadNamed
from optimd_server.core.events import (
    Applied,
    CreateRequested,
    JoinRequested,
    LeaveRequested,
    Prepared,
    Push,
    PushCommitted,
    PushOffered,
    SignOfLife,
    Ticked,
    UpdateRequested,
    UploadCompleted,
    Version,
)
from optimd_server.core.saved import restore, saved_state
from optimdpb.errors import Refused
from optimdpb.specs import SGD, Async, ClipGlobalNorm, Constant, JobSpec, Layout, Linear, Ssp, Sync, Tensor

from tests.property.machine_rounds import SyncModel, model_of
from tests.property.machine_watch import NAMES, Watched

LEASE_S = 10.0
TICK_S = 1.0
NORM_MAX = 1.5
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


class Life(Watched):
    """One job after the other under one name, each from its creation on, over restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.drafts: dict[str, Push] = {}
        self.snapshot: tuple[Any, Any] | None = None
        self.requests = 0

    @initialize(spec=specs(), seconds=quarters, joiners=st.lists(st.sampled_from(NAMES), unique=True))
    def create(self, spec: JobSpec, seconds: float, joiners: list[str]) -> None:
        self._begin(spec, 1, seconds, joiners)

    @rule(spec=specs(), tries=st.integers(1, 3), joiners=st.lists(st.sampled_from(NAMES), unique=True))
    def delete_and_create(self, spec: JobSpec, tries: int, joiners: list[str]) -> None:
        """Another job of the name; what comes late for the old one comes to it."""
        self.lineages.append(f"lineage-{len(self.lineages)}")
        self.snapshot = self.command = None
        self._begin(spec, tries, 1.0, joiners)

    def _begin(self, spec: JobSpec, tries: int, seconds: float, joiners: list[str]) -> None:
        """tries: so many are named to upload the parameters, the last one does."""
        epochs_from = self.last_epoch + 1
        self.machine = JobMachine(spec, lease_s=LEASE_S, tick_interval_s=TICK_S, epochs_from=epochs_from)
        for _ in range(tries):
            self.now_s += 2 * LEASE_S
            (named, *_) = self.machine.handle(CreateRequested("creator"), self.now_s)
            assert isinstance(named, UploadNamed)
            assert named.token > self.last_epoch, "a token was given out again"
            former, self.last_epoch = self.last_epoch, named.token
            with pytest.raises(Refused, match="upload token"):
                self.machine.handle(UploadCompleted(former, "lineage of a former try"), self.now_s)
        self.model = model_of(spec, LEASE_S, TICK_S, self.lineages[-1], self.now_s)
        self.machine.handle(UploadCompleted(self.last_epoch, self.lineages[-1]), self.now_s)
        self.machine.start_clock(self.now_s)
        self.sound = True
        self.now_s += seconds
        for name in joiners:
            self.send(JoinRequested(name))

    @rule(more=st.integers(-1, 5), revision=st.sampled_from([None, None, None, 0, 1]), again=st.booleans())
    def move_the_end(self, more: int, revision: int | None, again: bool) -> None:
        """Another steps_max, near the present step; or the last such request once more."""
        if not (again and self.model.requests):
            self.requests += 1
            name, end = f"request-{self.requests}", self.model.step + more
            self.send(UpdateRequested(name, "operator", 0.0, revision, None, (), None, steps_max=end))
        else:
            self.send(self.model.requests[-1].event)

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
