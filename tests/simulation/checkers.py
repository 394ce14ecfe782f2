"""What must hold whatever happens, checked from outside: from events, effects, what was sent and what was answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimd_server.core.effects import (
    Answered,
    Apply,
    Effect,
    Joined,
    MemberRecord,
    Outcome,
    OutcomeRecord,
    RoundRecord,
    Status,
    UploadNamed,
)
from optimd_server.core.events import (
    Event,
    PushCommitted,
    PushOffered,
    PutBack,
    SignOfLife,
    Ticked,
    UpdateRequested,
    UploadCompleted,
)
from optimd_server.core.saved import saved_state
from optimd_server.runtime import JobHost
from optimdpb.specs import Async, JobSpec, Ssp, Sync
from optimdpb.v1 import optimd_pb2 as pb

from tests.simulation.books import Books
from tests.simulation.openings import Openings
from tests.simulation.reference import Reference

Float32s = NDArray[np.float32]
Key = tuple[str, int, int]
# As the ledger says.
DEAD_EPOCHS_KEPT = 4096
# Every so many events the state is compared before and after, if the event is refused; and memory is counted.
REFUSALS_LOOKED_AT = 8
MEMORY_LOOKED_AT = 4


class Violation(AssertionError):
    """A promise was broken."""


def require(holds: bool, promise: str) -> None:
    """Raises Violation."""
    if not holds:
        raise Violation(promise)


@dataclass(frozen=True)
class Gradient:
    """One that a worker computed; `taken_at`: the parameters that it was computed at."""

    number: int
    payload: bytes
    taken_at: bytes


@dataclass(frozen=True)
class Sent:
    """What went out under one seq."""

    gradient: Gradient
    payload: bytes
    weight: float
    lineage: str
    base_step: int


class Checkers:
    """The books of the jobs of one name, one after the other, over all server processes of a run.

    `applied` counts updates, rolled back ones included; `job` counts jobs; `words`: pushes without an outcome, and
    whether they are usable; `deleted`: jobs that were.
    """

    def __init__(self, spec: JobSpec, start: Float32s, lease_s: float, tick_s: float) -> None:
        self._start = start
        self.job = 0
        # The job that a lineage was of.
        self.job_of: dict[str, int] = {}
        self.deleted: set[int] = set()
        self.sent: dict[Key, Sent] = {}
        self.outcomes: dict[Key, Outcome] = {}
        self.history: list[RoundRecord] = []
        # Gradients that were ever applied, and those of which a program was told that they are not.
        self.applied_ever: set[int] = set()
        self.applied_before: set[int] = set()
        self.words: dict[tuple[str, int], bool] = {}
        self.not_applied: dict[int, str] = {}
        self.applied = 0
        self.live: dict[str, int] = {}
        self.clocks: dict[str, int] = {}
        self.seen_s: dict[str, float] = {}
        self.tick_last_s: float | None = None
        self.lease_s, self.tick_s = lease_s, tick_s
        self.epoch_last = 0
        self.events = 0
        self._stalled_s = 0.0
        self.applying: Apply | None = None
        self.lineages: set[str] = set()
        self.begin(spec)

    def begin(self, spec: JobSpec) -> None:
        """A job is made; nothing of an earlier one of its name may come to it, but the count of epochs."""
        self.spec = spec
        self.job += 1
        self.reference = Reference(spec, self._start)
        self.books = Books(spec, self.lineages)
        self.openings = Openings(spec.consistency) if isinstance(spec.consistency, Sync) else None
        self.over()
        self.applied_before = set(self.applied_ever)

    def over(self) -> None:
        """The job is no more: it was deleted, replaced by another, or lost with a server before it was saved."""
        self.applying = self.tick_last_s = None
        self.live, self.clocks, self.seen_s, self.words = {}, {}, {}, {}
        self.history.clear()
        self.books.restarted(0, "")
        if self.openings is not None:
            self.openings.restart(False, [])
        self.reference.restart(0)

    @property
    def _staleness_max(self) -> int | None:
        model = self.spec.consistency
        return 0 if isinstance(model, Sync) else model.staleness_max if isinstance(model, Async) else None

    def note_sent(self, header: pb.PushHeader, flat: Float32s, gradient: Gradient) -> None:
        """A client sends a push; under one seq always the same. A job that was deleted consumes none any more."""
        key = (header.worker, header.epoch, header.seq)
        base = header.base_version
        sent = Sent(gradient, flat.tobytes(), header.weight, base.lineage, base.step)
        require(sent.payload == gradient.payload, f"{key} was sent with bytes that are not those of its gradient")
        before = self.sent.setdefault(key, sent)
        if self.job_of[before.lineage] in self.deleted and key not in self.outcomes:
            self.sent[key] = before = sent
        require(before == sent, f"{key} was sent with two payloads")

    def told(self, gradient: Gradient, status: str) -> None:
        """A program was told what became of its gradient: a status, or what was raised because it does not count."""
        if status == "applied":
            require(gradient.number in self.applied_ever, f"gradient {gradient.number} is called applied and never was")
        else:
            self.not_applied[gradient.number] = status

    def before(self, host: JobHost) -> Any:
        """The state now, if this event is one that is looked at."""
        self.events += 1
        return saved_state(host.machine) if self.events % (REFUSALS_LOOKED_AT * self._members_factor) == 0 else None

    @property
    def _members_factor(self) -> int:
        """1 for few members. What takes time for each of them is looked at less often where they are many."""
        return 1 + len(self.live) // 16

    def refused(self, host: JobHost, event: Event, before: Any) -> None:
        """P4: a refused event changes nothing."""
        if before is not None:
            require(saved_state(host.machine) == before, f"{event} was refused and changed the state")
        host.machine.check_invariants()

    def took(self, host: JobHost, event: Event, effects: list[Effect], now_s: float) -> None:
        """One event and what came of it."""
        if self.events % self._members_factor == 0:
            host.machine.check_invariants()
        if self.tick_last_s is None:
            self.tick_last_s = now_s
        if isinstance(event, Ticked):
            self._tick(now_s)
        elif isinstance(event, SignOfLife):
            self._hear(event.worker, event.epoch, now_s)
        elif isinstance(event, PushOffered | PushCommitted):
            self._hear(event.push.worker, event.push.epoch, now_s)
        elif isinstance(event, UploadCompleted):
            require(host.machine.state.step == 0, "parameters were uploaded twice")
            self.job_of[host.machine.state.lineage] = self.job
        if isinstance(event, PutBack):
            self._put_back(host)
        version = host.machine.version
        was_finished = self.books.finished(version.step)
        self.books.took(event, effects, version.step, version.lineage)
        if isinstance(event, UpdateRequested) and was_finished and not self.books.finished(version.step):
            # Pushes that came behind the end moved clocks that nobody waited for.
            self.clocks = dict.fromkeys(self.clocks, min(self.clocks.values(), default=0))
        for effect in effects:
            self._take(host, effect, now_s)
        if isinstance(event, PushCommitted):
            self._spoke(event)
        if isinstance(event, PutBack):
            require(not self.words, f"the range test is over, and {sorted(self.words)} have no outcome")
        if self.openings is not None:
            state = host.machine.state
            held = state.held or self.books.finished(state.step)
            self.openings.took(effects, self.live, state.counters.rounds_void, now_s, self._stalled_s, held)
            if isinstance(event, Ticked):
                self.openings.check_moves(self.words, self.live, now_s - self._stalled_s)
        if self.events % (MEMORY_LOOKED_AT * self._members_factor) == 0:
            self._check_memory(host)

    def _spoke(self, event: PushCommitted) -> None:
        push = event.push
        account_is_open = (push.worker, push.epoch, push.seq) not in self.outcomes
        if account_is_open:
            self.words[push.worker, push.epoch] = bool(np.isfinite(event.magnitude_max))

    def check_staged(self, host: JobHost, calling: set[str]) -> None:
        """What is staged belongs to a push that waits, or to a worker with a call on its way."""
        for worker, epoch in host.shards.staged:
            account = host.machine.state.ledger.find(worker, epoch)
            wanted = worker in calling or (account is not None and account.pending)
            require(wanted, f"a gradient of {worker} epoch {epoch} is kept for nothing")

    def _check_memory(self, host: JobHost) -> None:
        """What a job keeps is bounded by its members and by constants."""
        accounts, live = len(host.machine.state.ledger._accounts), len(self.live)
        require(accounts <= live + DEAD_EPOCHS_KEPT + 1, f"{accounts} accounts of {live} workers are kept")
        budget = host._staging._budget
        require(budget.promised_bytes <= budget.bytes_max, f"{budget.promised_bytes} bytes are promised")
        members = self.openings.members_last if self.openings is not None else 0
        most = budget.bytes_max + members * self.spec.layout.size_bytes
        require(budget.used_bytes <= most, f"{budget.used_bytes} bytes are staged, {most} are allowed")

    def _take(self, host: JobHost, effect: Effect, now_s: float) -> None:
        match effect:
            case Joined() | UploadNamed():
                number = effect.epoch if isinstance(effect, Joined) else effect.token
                require(number > self.epoch_last, f"epoch or token {number} came after {self.epoch_last}")
                self.epoch_last = number
            case MemberRecord():
                self._member(effect, now_s)
            case Apply():
                require(self.applying is None, "two updates at once")
                self.applying = effect
            case RoundRecord():
                self._round(host, effect)
            case OutcomeRecord():
                require(effect.outcome.status is not Status.APPLIED, f"{effect} is of no round")
                self._outcome(effect.worker, effect.epoch, effect.outcome)
            case Answered():
                key = (effect.worker, effect.epoch, effect.outcome.seq)
                require(self.outcomes.get(key) == effect.outcome, f"{key} was answered otherwise than recorded")

    def _hear(self, worker: str, epoch: int, now_s: float) -> None:
        require(self.live.get(worker) == epoch, f"a call of {worker} under epoch {epoch} was taken, not live any more")
        self.seen_s[worker] = now_s

    def _tick(self, now_s: float) -> None:
        assert self.tick_last_s is not None
        late_s = now_s - self.tick_last_s - self.tick_s
        if late_s > self.tick_s:
            self._stalled_s += late_s
            self.seen_s = {worker: seen_s + late_s for worker, seen_s in self.seen_s.items()}
        self.tick_last_s = now_s
        for worker, seen_s in self.seen_s.items():
            require(now_s - seen_s <= self.lease_s + 2 * self.tick_s, f"{worker} is silent and never expires")

    def _member(self, record: MemberRecord, now_s: float) -> None:
        worker = record.worker
        if record.change == "joined":
            self.live[worker] = record.epoch
            self._count(record)
            self.seen_s[worker] = now_s
            self.clocks.pop(worker, None)
            self.clocks[worker] = min(self.clocks.values(), default=0)
            return
        if record.change == "expired":
            age_s = now_s - self.seen_s[worker]
            require(age_s >= self.lease_s - 1e-6, f"{worker} expired after {age_s:.3f} s of silence")
        if self.live.get(worker) == record.epoch:
            del self.live[worker], self.clocks[worker], self.seen_s[worker]
        self._count(record)

    def _count(self, record: MemberRecord) -> None:
        if self.openings is not None:
            self.openings.member(record.worker, record.change, len(self.live))

    def _outcome(self, worker: str, epoch: int, outcome: Outcome) -> None:
        key = (worker, epoch, outcome.seq)
        require(key in self.sent, f"{key} has an outcome and was never sent")
        require(key not in self.outcomes, f"{key} has two outcomes")
        self.outcomes[key] = outcome
        self.words.pop((worker, epoch), None)
        if self.live.get(worker) == epoch:
            self.clocks[worker] += 1

    def _round(self, host: JobHost, record: RoundRecord) -> None:
        applying, self.applying = self.applying, None
        require(applying is not None and applying.step == record.step, f"round {record.step} was never applied")
        require(record.step == len(self.history), f"step {record.step} after {len(self.history)} updates")
        self.applied += 1
        self.books.check(record.step, record.learning_rate)
        pushes = []
        for part in record.contributions:
            sent = self.sent[part.worker, part.epoch, part.seq]
            base_step = sent.base_step
            require(sent.lineage == host.machine.state.lineage, f"{part} is of another lineage")
            require(base_step == part.base_step <= record.step, f"{part} has base {base_step} at step {record.step}")
            most = self._staleness_max
            staleness = record.step - base_step
            require(most is None or staleness <= most, f"step {record.step} was made of {part}, {staleness} steps old")
            taken_at = self.reference.parameters_at(base_step).tobytes()
            require(sent.gradient.taken_at == taken_at, f"{part} was not computed at step {base_step}")
            require(sent.gradient.number not in self.applied_before, f"{part} was applied in a job that is gone")
            self.applied_ever.add(sent.gradient.number)
            pushes.append((part.worker, sent.weight, base_step, np.frombuffer(sent.payload, np.float32)))
        told = {(worker, epoch, outcome.seq) for worker, epoch, outcome in record.outcomes}
        require(told == {(p.worker, p.epoch, p.seq) for p in record.contributions}, f"step {record.step}: outcomes")
        for worker, epoch, outcome in record.outcomes:
            require(outcome.status is Status.APPLIED, f"a contribution of step {record.step} is {outcome}")
            self._outcome(worker, epoch, outcome)
        self.history.append(record)
        expected = self.reference.apply(record, pushes)
        got = host.shards.flat_parameters()
        if not np.array_equal(expected, got):
            raise Violation(f"step {record.step}: expected parameters {expected}, got {got}")

    def _put_back(self, host: JobHost) -> None:
        """A range test is over: parameters and slots are those of before it, its updates are no history."""
        step = host.machine.version.step
        del self.history[step:]
        self.reference.restart(step)
        plain = self.reference._plain
        require(np.array_equal(plain.parameters, host.shards.flat_parameters()), "parameters were put back wrongly")
        require(np.array_equal(plain.slots, host.shards.flat_slots()), "slots were put back wrongly")
        self.job_of[host.machine.version.lineage] = self.job
        if self.openings is not None:
            self.openings.restart(self.openings.opened, self.openings.left)

    def answered(self, worker: str, epoch: int, outcome: pb.Outcome) -> None:
        """The server lets an answer go out."""
        key = (worker, epoch, outcome.seq)
        known = self.outcomes.get(key)
        require(known is not None, f"{key} was answered without an outcome")
        assert known is not None
        status = pb.OutcomeStatus.Name(outcome.status).removeprefix("OUTCOME_STATUS_")
        same = (status, outcome.applied_step) == (known.status.name, known.applied_step)
        require(same, f"{key} was answered {status} at {outcome.applied_step}, it is {known}")

    def check_bound(self, worker: str, epoch: int, finished: bool) -> None:
        """Ssp: nobody is told to go on who is further ahead than the bound. Call it as an outcome is first told."""
        model = self.spec.consistency
        if not isinstance(model, Ssp) or finished or self.live.get(worker) != epoch:
            return
        ahead = self.clocks[worker] - min(self.clocks.values())
        require(ahead <= model.staleness, f"{worker} was let go on {ahead} ahead, the bound is {model.staleness}")

    def restarted(self, host: JobHost, clean: bool) -> None:
        """Another server process goes on with what was saved."""
        state = host.machine.state
        now_s = host.now_s()
        require(host.spec == self.spec, "the job is one of another specification")
        self.applying, self.tick_last_s, self.words = None, now_s, {}
        self.job_of[state.lineage] = self.job
        if clean:
            require(not self.books.sweeping, "an orderly restart lost a range test")
            require(state.clock.revision == self.books.revision, "an orderly restart lost changes")
            require(state.step == len(self.history), "an orderly restart lost updates")
            require({m.worker: m.epoch for m in state.members} == self.live, "an orderly restart lost members")
            self.seen_s = dict.fromkeys(self.live, now_s)
        else:
            self.live, self.clocks, self.seen_s = {}, {}, {}
            del self.history[state.step :]
        if self.openings is not None:
            left = host.machine.rounds.saved()["left"]
            require(not clean or left == self.openings.left, "an orderly restart forgot who had left")
            self.openings.restart(state.opened, left)
        self.books.restarted(state.clock.revision, state.lineage)
        require(state.clock.steps_max == self.books.steps_max, f"the job ends at {state.clock.steps_max} now")
        self.reference.restart(state.step)
        got = host.shards.flat_parameters()
        require(np.array_equal(self.reference._plain.parameters, got), "restored parameters differ")

    def check_history(self) -> None:
        """Each gradient that a worker computed is in the surviving history at most once."""
        gradients: dict[int, Key] = {}
        for record in self.history:
            for part in record.contributions:
                key = (part.worker, part.epoch, part.seq)
                number = self.sent[key].gradient.number
                require(number not in gradients, f"{key} and {gradients.get(number)} are one gradient")
                said = self.not_applied.get(number)
                require(said is None, f"{key} was applied, its program heard {said}")
                gradients[number] = key
