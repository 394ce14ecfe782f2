"""A job under test with a hand-set clock that plays its own shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optimd_server.core import JobMachine
from optimd_server.core.effects import (
    Answered,
    Apply,
    Effect,
    Joined,
    Keep,
    Outcome,
    Prepare,
    PutBackKept,
    RoundRecord,
    Updated,
)
from optimd_server.core.events import (
    Applied,
    CreateRequested,
    Event,
    JoinRequested,
    Kept,
    LeaveRequested,
    Prepared,
    Push,
    PushCommitted,
    PushOffered,
    PutBack,
    Ticked,
    UpdateRequested,
    UploadCompleted,
    Version,
)
from optimdpb.specs import SGD, JobSpec, Layout, Schedule, Sync, Tensor
from optimdpb.specs.schedules import as_schedule

LEASE_S = 10.0
TICK_S = 1.0
LINEAGE = "lineage-1"


class Job:
    """Feeds events, checks invariants after each, and remembers every effect and every outcome.

    With `auto_apply` it answers Prepare and Apply at once; otherwise they are left for the test.
    """

    def __init__(self, **spec: Any) -> None:
        values: dict[str, Any] = {"layout": Layout((Tensor("w", (3,)),)), "optimizer": SGD(0.5), "consistency": Sync(2)}
        self.machine = JobMachine(JobSpec(**{**values, **spec}), lease_s=LEASE_S, tick_interval_s=TICK_S)
        self.now_s = 100.0
        self.auto_apply = True
        self.effects: list[Effect] = []
        self.outcomes: dict[tuple[str, int, int], Outcome] = {}
        self.epochs: dict[str, int] = {}
        self.seqs: dict[tuple[str, int], int] = {}

    def ready(self) -> Job:
        """Create it and give it parameters."""
        self.send(CreateRequested("w0"))
        self.send(UploadCompleted(self.machine.state.creation.token, LINEAGE))
        return self

    def send(self, event: Event) -> list[Effect]:
        """One event and what came of it, shards' answers included."""
        effects = self.machine.handle(event, self.now_s)
        self.machine.check_invariants()
        self.effects += effects
        for effect in list(effects):
            if isinstance(effect, Answered) and not effect.duplicate:
                key = (effect.worker, effect.epoch, effect.outcome.seq)
                assert key not in self.outcomes, f"{key} was answered twice"
                self.outcomes[key] = effect.outcome
            if self.auto_apply and isinstance(effect, Prepare):
                effects = effects + self.send(
                    Prepared(effect.step, np.full((1 if effect.scalars is None else 2, 1), 9.0))
                )
            if self.auto_apply and isinstance(effect, Apply):
                effects = effects + self.send(Applied(effect.step))
            if self.auto_apply and isinstance(effect, Keep):
                effects = effects + self.send(Kept(True))
            if self.auto_apply and isinstance(effect, PutBackKept):
                effects = effects + self.send(PutBack(effect.step))
        return effects

    def join(self, *workers: str) -> None:
        """Each joins and its newest epoch is remembered."""
        for worker in workers:
            joined = next(e for e in self.send(JoinRequested(worker)) if isinstance(e, Joined))
            self.epochs[worker] = joined.epoch

    def leave(self, worker: str, *, failed: bool = False) -> None:
        self.send(LeaveRequested(worker, self.epochs[worker], failed))

    def push_of(self, worker: str, *, base_step: int | None = None, **fields: Any) -> Push:
        """The worker's next push at the current version."""
        epoch = fields.pop("epoch", self.epochs[worker])
        seq = fields.pop("seq", self.seqs.get((worker, epoch), 0) + 1)
        step = self.machine.version.step if base_step is None else base_step
        base = fields.pop("base", Version(self.machine.version.lineage, step))
        return Push(worker, epoch, seq, base, fields.pop("weight", 1.0), fields.pop("loss", None))

    def push(self, worker: str, magnitude_max: float = 1.0, **fields: Any) -> list[Effect]:
        """Offer and commit the worker's next push."""
        push = self.push_of(worker, **fields)
        effects = self.send(PushOffered(push))
        if not any(isinstance(e, Answered) for e in effects):
            effects = effects + self.send(PushCommitted(push, magnitude_max))
        self.seqs[worker, push.epoch] = push.seq
        return effects

    def outcome(self, worker: str, seq: int | None = None, epoch: int | None = None) -> Outcome | None:
        """The outcome of the worker's last push, None while it waits."""
        epoch = epoch or self.epochs[worker]
        return self.outcomes.get((worker, epoch, seq or self.seqs[worker, epoch]))

    def update(
        self,
        request_id: str,
        *,
        at_step: int | None = None,
        expected_revision: int | None = None,
        paused: bool | None = None,
        steps_max: int | None = None,
        **schedules: Schedule | float,
    ) -> Updated:
        """Ask for a change."""
        given = tuple((name, as_schedule(name, value)) for name, value in schedules.items())
        event = UpdateRequested(request_id, "operator", 1e9, expected_revision, at_step, given, paused, steps_max)
        return next(effect for effect in self.send(event) if isinstance(effect, Updated))

    def rounds(self) -> list[RoundRecord]:
        """Applied rounds so far."""
        return [effect for effect in self.effects if isinstance(effect, RoundRecord)]

    def rates(self) -> list[float]:
        """Learning rates of the applied rounds so far."""
        return [record.learning_rate for record in self.rounds()]

    def wait(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        for _ in range(int(seconds / TICK_S)):
            self.now_s += TICK_S
            self.send(Ticked())

    def commands(self) -> list[Effect]:
        """Prepare and Apply so far."""
        return [e for e in self.effects if isinstance(e, Prepare | Apply)]


def training(optimizer: Any, steps: int = 0, **spec: Any) -> Job:
    """One worker that has made so many steps."""
    job = Job(**{"optimizer": optimizer, "consistency": Sync(1), **spec}).ready()
    job.join("w0")
    train(job, steps)
    return job


def train(job: Job, steps: int, **fields: Any) -> None:
    for _ in range(steps):
        job.push("w0", **fields)


@pytest.fixture
def job() -> Job:
    """Sync(2), SGD 0.5, ready."""
    return Job().ready()
