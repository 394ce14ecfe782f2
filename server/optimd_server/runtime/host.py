"""One job at run time: feeds events to its core and carries out the effects.

Everything but kernels runs on the event loop, so the core needs no lock. Kernels on large vectors run on threads, one
command at a time; the lock keeps the parameters still while they are encoded for pullers.

What fails on the way, fails this job alone: see JobHost.fail().
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import Callable

from numpy.typing import DTypeLike
from optimdpb.codec import job_spec_to_proto, spec_digest
from optimdpb.errors import Refused
from optimdpb.specs import JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.config import ServerConfig
from optimd_server.core import JobMachine
from optimd_server.core.effects import (
    Answered,
    Apply,
    BecameReady,
    DropStaging,
    Effect,
    Failed,
    Joined,
    Keep,
    MemberRecord,
    Outcome,
    OutcomeRecord,
    Pending,
    Prepare,
    PutBackKept,
)
from optimd_server.core.events import (
    Event,
    HaltRequested,
    JoinRequested,
    LeaveRequested,
    Push,
    PushOffered,
    SignOfLife,
    Ticked,
    Version,
)
from optimd_server.optimizers.kernels import magnitude_max
from optimd_server.runtime.budget import JobStaging, StagingBudget
from optimd_server.runtime.commands import Commands
from optimd_server.runtime.encoded import ParameterMessages
from optimd_server.runtime.eventlog import open_event_log
from optimd_server.runtime.journal import Journal
from optimd_server.runtime.parameters import MemoryFor, Parameters
from optimd_server.runtime.scans import Scans
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.sharing import JobSharing, WorkerMemory
from optimd_server.runtime.shielded import to_its_end
from optimd_server.runtime.threads import KernelThreads
from optimd_server.runtime.waiting import Waiting
from optimd_server.state import Claim, SharedGradient, StagedGradient

log = logging.getLogger(__name__)

# Of an error's text that everybody is told.
ERROR_CHARACTERS_MAX = 300
# Reasons of the core, which does not know its job's name.
OF_THE_JOB = frozenset({"JOB_NOT_READY", "WRONG_STATE"})


class JobHost:
    """A job with its core, its shards and the calls that wait for it. Use it on the event loop's thread alone."""

    def __init__(
        self,
        name: str,
        spec: JobSpec,
        config: ServerConfig,
        threads: KernelThreads,
        budget: StagingBudget,
        clock: Callable[[], float],
        epochs_from: int,
    ) -> None:
        self.name = name
        self.spec = spec
        arguments = {
            "lease_s": config.lease_s,
            "tick_interval_s": config.tick_interval_s,
            "epochs_from": epochs_from,
        }
        self.machine = JobMachine(spec, **arguments)  # type: ignore[arg-type]
        self.sharing = JobSharing(name, spec, config)
        shared = self.sharing.parameters
        self.shards = ShardGroup(
            spec,
            self.machine.state.plan,
            config.shards,
            threads.threads,
            config.chunk_bytes_max,
            None if shared is None else shared.values,
        )
        self.transports: dict[tuple[str, int], tuple[int, str]] = {}
        self.ready = asyncio.Event()
        # Why the job cannot go on, "" while it can; and whether its state in memory is one between two updates.
        self.failure, self.incident = "", ""
        self.is_trusted = True
        # Why it is no job of this server any more.
        self.removed: Refused | None = None
        # Whether the server ends: nothing from outside changes the job any more; and whether no update can come.
        self.frozen = False
        self.still = False
        self._clock = clock
        self.one_thread = self.shards.size_bytes <= config.one_thread_bytes_max
        self._run = threads.run_inline if self.one_thread else threads.run
        self._waiting = Waiting()
        self.slabs_still = asyncio.Lock()
        self.scans = Scans(
            self.shards, self._run, self.slabs_still, self.machine.rounds.foreseen, lambda: self.machine.state.step
        )
        on_threads = not self.one_thread
        self.parameters = Parameters(
            self.shards,
            self._run,
            self.slabs_still,
            lambda: self.machine.version,
            self.check_goes_on,
            ParameterMessages(self.shards, config.encoded_versions_max),
            on_threads=on_threads,
        )
        self._commands = Commands(
            self.shards, self._run, self.slabs_still, self._take_own, self._fail_over, on_threads=on_threads
        )
        # Behind all that can fail: what has entered the budget stays in it.
        self._staging = JobStaging(budget, spec, self.shards, self.sharing, self._live)
        self.event_log = open_event_log(config, name, spec, arguments)
        self._journal = Journal(name, self.machine.state, clock)

    @functools.cached_property
    def spec_message(self) -> pb.JobSpec:
        """The specification as its message, made once: that of a large layout takes 50 ms."""
        return job_spec_to_proto(self.spec)

    @functools.cached_property
    def spec_digest(self) -> bytes:
        """Tells a job from another one of the same name."""
        return spec_digest(self.spec_message)

    @property
    def state_name(self) -> str:
        """The contract's JobState without its prefix."""
        state = self.machine.state
        if self.failure:
            return "FAILED"
        if not state.creation.ready:
            return "INITIALIZING"
        if state.range_test is not None and state.range_test.active:
            return "RANGE_TEST"
        if state.finished:
            return "FINISHED"
        return "PAUSED" if state.clock.paused else "READY"

    def now_s(self) -> float:
        """The job's monotonic clock."""
        return self._clock()

    def handle(self, event: Event) -> list[Effect]:
        """Feed a caller's event to the core and carry out what it asks.

        Raises Refused, having changed nothing; or INTERNAL if the job fails over it.
        """
        if self.frozen:
            raise Refused("SHUTTING_DOWN", "the server ends: try again, here or where it comes back")
        if self.failure:
            return self._answer_failed(event)
        try:
            return self._take(event)
        except Refused as error:
            if error.reason in OF_THE_JOB:
                error.metadata.setdefault("job", self.name)
            raise
        except Exception as error:
            self.fail(error, f"{type(event).__name__} was half taken", trusted=False)
            raise Refused("INTERNAL", self.failure, incident=self.incident) from error

    def tick(self) -> None:
        """Time passes."""
        self._take_own(Ticked())

    def _take(self, event: Event) -> list[Effect]:
        now_s = self._clock()
        if self.event_log is not None:
            self.event_log.event(event, now_s)
        effects = self.machine.handle(event, now_s)
        for effect in effects:
            self._perform(effect)
        return effects

    def _take_own(self, event: Event) -> None:
        """One of the server's own, which the core does not refuse."""
        if self.failure:
            return
        try:
            self._take(event)
        except Exception as error:
            self.fail(error, f"{type(event).__name__} was half taken", trusted=False)

    def fail(self, error: Exception, what: str, *, trusted: bool) -> None:
        """The job goes on no more, and says so: whoever waits or asks is answered JOB_FAILED. Other jobs go on.

        trusted: parameters, slots and core are as between two updates, so that the job can be saved.
        """
        self.is_trusted = self.is_trusted and trusted and not self.machine.state.sweeping
        if self.failure:
            return
        self.incident = incident = secrets.token_hex(4)
        problem = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
        step = self.machine.state.step
        self.failure = f"job {self.name!r} failed at step {step}: {what}: {problem} (incident {incident} in the log)"
        log.critical("incident %s: %s", incident, self.failure, exc_info=error)
        self._let_go()

    def _let_go(self, *, with_slabs: bool = False) -> None:
        """Answer who waits; free what commands, workers and pullers need. with_slabs: parameters and slots, too."""
        self.stop_waiting()
        self._commands.end(with_slabs=with_slabs)
        self.close()
        self.sharing.forget_all()
        self.parameters.messages.forget_all()

    def _fail_over(self, what: str, error: Exception, changed: bool) -> None:
        self.fail(error, what, trusted=not changed)

    def check_goes_on(self) -> None:
        """Raises Refused(JOB_FAILED)."""
        if self.failure:
            raise self._refusal()

    def check_trusted(self) -> None:
        """Raises Refused(JOB_FAILED) if the job has failed and left nothing that can be saved."""
        if not self.is_trusted:
            raise self._refusal()

    def _refusal(self) -> Refused:
        if self.removed is not None:  # each its own, for each gets a traceback
            return Refused.from_reason(self.removed.reason, str(self.removed), self.removed.metadata)
        return Refused("JOB_FAILED", self.failure, job=self.name, failure=self.failure)

    def _answer_failed(self, event: Event) -> list[Effect]:
        """Who leaves may go; a push that has its outcome is told it. Raises Refused(JOB_FAILED)."""
        match event:
            case LeaveRequested():
                return []
            case PushOffered():
                push = event.push
                outcome = self._stored_outcome(push.worker, push.epoch, push.seq)
                return [Answered(push.worker, push.epoch, outcome, duplicate=True)]
        raise self._refusal()

    def _stored_outcome(self, worker: str, epoch: int, seq: int) -> Outcome:
        """Of a failed job; nothing is withheld any more. Raises Refused(JOB_FAILED) where none will ever come."""
        outcome = self.machine.state.ledger.settled(worker, epoch, seq)
        if outcome is None:
            raise self._refusal()
        return outcome

    def _live(self) -> int:
        """Workers that need room for gradients."""
        return 0 if self.failure else len(self.machine.state.members)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Answered():
                self._waiting.answer((effect.worker, effect.epoch, effect.outcome.seq), effect.outcome)
            case DropStaging():
                self.shards.drop(effect.worker, effect.epoch)
            case MemberRecord():
                if effect.change != "joined":
                    self.sharing.forget(effect.worker, effect.epoch)
                    self.transports.pop((effect.worker, effect.epoch), None)
                self._journal.member(effect)
            case OutcomeRecord():
                self._journal.outcome(effect.worker, effect.epoch, effect.outcome)
            case BecameReady():
                self.ready.set()
            case Prepare() | Apply() | Keep() | PutBackKept():
                self._commands.give(effect)
            case Failed():
                self.fail(FloatingPointError(effect.problem), "its parameters are spoiled", trusted=False)
            case _:
                pass  # answers to the caller, and records for a journal

    def join(self, worker: str) -> Joined:
        """Make the worker a member under a fresh epoch. Raises Refused(BACKLOG_FULL, JOB_NOT_READY, JOB_FAILED)."""
        self.check_goes_on()
        if not self.machine.state.members.has(worker):
            self._staging.check_join()
        return next(effect for effect in self.handle(JoinRequested(worker)) if isinstance(effect, Joined))

    def stage(self, push: Push, dtype: DTypeLike) -> StagedGradient:
        """Where the payload of an offered push goes. Raises Refused(BACKLOG_FULL)."""
        self._staging.check_stage(push.worker, push.epoch, dtype)
        with MemoryFor("a gradient"):
            return self.shards.stage(push.worker, push.epoch, dtype)

    async def open_shared(self, worker: str, epoch: int) -> WorkerMemory:
        """Make shared memory for a live epoch of a job that shares. Raises Refused(SHARED_MEMORY_UNAVAILABLE, ...)."""
        return await to_its_end(self._staging.opening, lambda: self._open_shared(worker, epoch))

    async def _open_shared(self, worker: str, epoch: int) -> WorkerMemory:
        self._staging.check_shared(self.sharing.has(worker, epoch))
        memory = await asyncio.to_thread(self.sharing.make, worker)
        self.handle(SignOfLife(worker, epoch))
        self.sharing.keep(worker, epoch, memory)
        return memory

    def note_transport(self, worker: str, epoch: int, transport: int, detail: str) -> None:
        """How a live worker's payloads travel, as it says; who does without shared memory needs it no more."""
        self.transports[worker, epoch] = transport, detail
        if transport != pb.TRANSPORT_SHARED_MEMORY:
            self.sharing.forget(worker, epoch)

    def adopt(self, push: Push, number: int) -> SharedGradient:
        """The gradient in a shared buffer takes its place in staging. Raises Refused(SHARED_MEMORY_GONE)."""
        return self.shards.adopt(push.worker, push.epoch, self.sharing.gradient(push.worker, push.epoch, number))

    async def scan(self, push: Push, gradient: SharedGradient) -> float:
        """Its largest |element|, infinity if one is not finite. Raises Refused(PUSH_SUPERSEDED)."""
        found = magnitude_max(gradient.values) if self.one_thread else await self.scans.scan(push, gradient)
        gradient.check_open()
        return found

    async def locate(self, worker: str, epoch: int) -> tuple[Version, pb.Location]:
        """The version of the parameters and where a worker with shared memory may read them, as a Location.

        Raises Refused(JOB_FAILED).
        """
        self.check_goes_on()
        if self.sharing.has(worker, epoch):
            if self.machine.rounds.stands_still_for(worker, epoch):
                return self.machine.version, pb.LOCATION_SHARED
            copy = self.sharing.copy_of(worker, epoch)
            if copy is not None:
                return await self.parameters.copy_to(copy), pb.LOCATION_COPY
        return self.machine.version, pb.LOCATION_NONE

    def give_up(self, staged: Claim) -> None:
        """Nothing more of this payload will come: free it, unless another attempt took its place."""
        if not staged.closed:
            self.shards.drop(staged.worker, staged.epoch)

    async def wait_outcome(self, worker: str, epoch: int, seq: int, wait_s: float) -> Outcome | Pending | None:
        """The outcome of a push, waiting for it up to wait_s; Pending if it is not there by then; None if never taken.

        Raises Refused.
        """
        if self.failure:
            return self._stored_outcome(worker, epoch, seq)
        known = self.machine.outcome_of(worker, epoch, seq)
        if not isinstance(known, Pending) or wait_s <= 0:
            return known
        outcome = await self._waiting.wait((worker, epoch, seq), wait_s)
        if outcome is None:
            return self._stored_outcome(worker, epoch, seq) if self.failure else known
        return outcome

    def stop_waiting(self) -> None:
        """Let every waiting call answer now what is known."""
        self._waiting.end()

    def freeze(self) -> None:
        """Refuse whatever comes from outside; let waiting calls answer; finish the update on its way, and no other."""
        if self.frozen:
            return
        self.frozen = True
        self.stop_waiting()
        self._take_own(HaltRequested())

    async def drain(self) -> None:
        """Wait for the update that is on its way."""
        await self._commands.finished()
        self.still = self.frozen

    def close(self) -> None:
        """Write down no more events."""
        log_file, self.event_log = self.event_log, None
        if log_file is not None:
            log_file.close()

    def remove(self, why: Refused) -> None:
        """The job is no more: who waits or asks is answered why. Its room is free, its memory once no kernel runs."""
        self.removed, self.failure, self.is_trusted = why, str(why), False
        self.sharing.parameters = None
        try:
            self._let_go(with_slabs=True)
        finally:  # nobody comes back for its room, and without memory it would fail whoever else asks for some
            self._staging.leave()
