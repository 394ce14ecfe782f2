"""One job at run time: feeds events to its core and carries out the effects.

Everything but kernels runs on the event loop, so the core needs no lock. Kernels on large vectors run on threads, one
command at a time; the lock keeps the parameters still while they are encoded for pullers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from numpy.typing import DTypeLike
from optimdpb.specs import JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core import JobMachine
from optimd_server.core.effects import (
    Answered,
    Apply,
    BecameReady,
    DropStaging,
    Effect,
    Joined,
    Keep,
    MemberRecord,
    Outcome,
    Pending,
    Prepare,
    PutBackKept,
)
from optimd_server.core.events import (
    Applied,
    Event,
    JoinRequested,
    Kept,
    Prepared,
    Push,
    PutBack,
    RangeTestStopRequested,
    SignOfLife,
    Version,
)
from optimd_server.core.saved import restore, saved_state
from optimd_server.optimizers.kernels import Float32s, magnitude_max
from optimd_server.runtime.budget import JobStaging, StagingBudget
from optimd_server.runtime.config import ServerConfig
from optimd_server.runtime.encoded import EncodedParameters, ParameterMessages
from optimd_server.runtime.eventlog import EventLog
from optimd_server.runtime.scans import Scans
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.sharing import JobSharing, WorkerMemory
from optimd_server.runtime.threads import KernelThreads
from optimd_server.state import Claim, SharedGradient, StagedGradient
from optimd_server.storage import Snapshot

log = logging.getLogger(__name__)

# What the core asks of the shards.
Command = Prepare | Apply | Keep | PutBackKept


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
        on_fatal: Callable[[BaseException], None],
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
        self._staging = JobStaging(budget, spec, self.shards, self.sharing, lambda: len(self.machine.state.members))
        self.transports: dict[tuple[str, int], tuple[int, str]] = {}
        self.ready = asyncio.Event()
        # Why the job cannot go on, "" while it can; and whether its state in memory is one between two updates.
        self.failure = ""
        self.is_trusted = True
        self._clock = clock
        self._on_fatal = on_fatal
        self._one_thread = self.shards.size_bytes <= config.one_thread_bytes_max
        self._run = threads.run_inline if self._one_thread else threads.run
        # Waiters of one push in the order they came.
        self._waiting: dict[tuple[str, int, int], dict[asyncio.Future[Outcome], None]] = {}
        self._slabs_still = asyncio.Lock()
        self.scans = Scans(
            self.shards, self._run, self._slabs_still, self.machine.rounds.foreseen, lambda: self.machine.state.step
        )
        self.messages = ParameterMessages(self.shards, config.encoded_versions_max)
        self._commands: set[asyncio.Task[None]] = set()
        self._small: deque[Command] = deque()
        folder = config.event_log_dir
        self._log = None if folder is None else EventLog(folder, name, spec, arguments)

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
        """Feed one event to the core and carry out what it asks. Raises Refused."""
        now_s = self._clock()
        if self._log is not None:
            self._log.event(event, now_s)
        effects = self.machine.handle(event, now_s)
        for effect in effects:
            self._perform(effect)
        return effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Answered():
                key = (effect.worker, effect.epoch, effect.outcome.seq)
                for waiter in self._waiting.pop(key, ()):
                    if not waiter.done():
                        waiter.set_result(effect.outcome)
            case DropStaging():
                self.shards.drop(effect.worker, effect.epoch)
            case MemberRecord():
                if effect.change != "joined":
                    self.sharing.forget(effect.worker, effect.epoch)
                    self.transports.pop((effect.worker, effect.epoch), None)
                if effect.change == "set aside":
                    log.warning("job %s: worker %s was set aside, epoch %d", self.name, effect.worker, effect.epoch)
            case BecameReady():
                self.ready.set()
            case Prepare() | Apply() | Keep() | PutBackKept():
                self._command(effect)
            case _:
                pass  # answers to the caller, and records for a journal

    def _command(self, command: Command) -> None:
        if self._one_thread:
            self._small.append(command)
            if len(self._small) == 1:
                self._carry_out_small()
            return
        task = asyncio.get_running_loop().create_task(self._carry_out_on_threads(command))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    def _carry_out_small(self) -> None:
        """What comes of one may ask for the next: a loop, however many pushes wait."""
        try:
            while self._small:
                self.handle(self._carry_out_now(self._small[0]))
                self._small.popleft()
        finally:
            self._small.clear()

    def _carry_out_now(self, command: Command) -> Event:
        try:
            return self._carry_out(command)
        except Exception as error:
            self._give_up_on(command, error)
            raise

    async def _carry_out_on_threads(self, command: Command) -> None:
        try:
            async with self._slabs_still:
                event = await asyncio.to_thread(self._carry_out, command)
            self.handle(event)
        except Exception as error:  # the update may be half done: nothing of this job can be trusted any more
            self._give_up_on(command, error)

    def _give_up_on(self, command: Command, error: Exception) -> None:
        log.critical("job %s: %s failed", self.name, type(command).__name__, exc_info=error)
        self._on_fatal(error)

    def _carry_out(self, command: Command) -> Prepared | Applied | Kept | PutBack:
        match command:
            case Prepare():
                return Prepared(command.step, self.shards.prepare(command, self._run))
            case Apply():
                self.shards.apply(command, self._run)
                return Applied(command.step)
            case Keep():
                return Kept(self.shards.keep())
            case PutBackKept():
                self.shards.put_back(command.step)
                return PutBack(command.step)

    def join(self, worker: str) -> Joined:
        """Make the worker a member under a fresh epoch. Raises Refused(BACKLOG_FULL, JOB_NOT_READY)."""
        if not self.machine.state.members.has(worker):
            self._staging.check_join()
        return next(effect for effect in self.handle(JoinRequested(worker)) if isinstance(effect, Joined))

    def stage(self, push: Push, dtype: DTypeLike) -> StagedGradient:
        """Where the payload of an offered push goes. Raises Refused(BACKLOG_FULL)."""
        self._staging.check_stage(push.worker, push.epoch, dtype)
        return self.shards.stage(push.worker, push.epoch, dtype)

    async def open_shared(self, worker: str, epoch: int) -> WorkerMemory:
        """Make shared memory for a live epoch of a job that shares. Raises Refused(SHARED_MEMORY_UNAVAILABLE, ...)."""
        async with self._staging.opening:
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
        found = magnitude_max(gradient.values) if self._one_thread else await self.scans.scan(push, gradient)
        gradient.check_open()
        return found

    async def locate(self, worker: str, epoch: int) -> tuple[Version, pb.Location]:
        """The version of the parameters and where a worker with shared memory may read them, as a Location."""
        if self.sharing.has(worker, epoch):
            if self.machine.rounds.stands_still_for(worker, epoch):
                return self.machine.version, pb.LOCATION_SHARED
            copy = self.sharing.copy_of(worker, epoch)
            if copy is not None:
                # To its end, also if the call is given up: nobody may write to the parameters meanwhile.
                return await asyncio.shield(asyncio.ensure_future(self._copy_parameters(copy))), pb.LOCATION_COPY
        return self.machine.version, pb.LOCATION_NONE

    async def _copy_parameters(self, target: Float32s) -> Version:
        if self._one_thread:  # updates are made here, on the event loop: nothing may be read elsewhere
            self.shards.copy_parameters(target, self._run)
            return self.machine.version
        async with self._slabs_still:
            version = self.machine.version
            await asyncio.to_thread(self.shards.copy_parameters, target, self._run)
            return version

    def give_up(self, staged: Claim) -> None:
        """Nothing more of this payload will come: free it, unless another attempt took its place."""
        if not staged.closed:
            self.shards.drop(staged.worker, staged.epoch)

    async def wait_outcome(self, worker: str, epoch: int, seq: int, wait_s: float) -> Outcome | Pending | None:
        """The outcome of a push, waiting for it up to wait_s; Pending if it is not there by then; None if never taken.

        Raises Refused.
        """
        known = self.machine.outcome_of(worker, epoch, seq)
        if not isinstance(known, Pending) or wait_s <= 0:
            return known
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        key = (worker, epoch, seq)
        waiters = self._waiting.setdefault(key, {})
        waiters[waiter] = None
        try:
            async with asyncio.timeout(wait_s):
                return await waiter
        except TimeoutError:
            return known
        finally:
            waiters.pop(waiter, None)
            if not waiters and self._waiting.get(key) is waiters:
                del self._waiting[key]

    def stop_waiting(self) -> None:
        """Let every waiting call answer WAITING now."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(TimeoutError())
        self._waiting.clear()

    async def encoded(self, encoding: int) -> EncodedParameters:
        """The current parameters as messages, encoded once per version, as F32 or BF16."""
        bfloat16 = encoding == pb.ENCODING_BF16
        if self._one_thread:
            return self._known_messages(bfloat16) or self.messages.make(self.machine.version, bfloat16)
        async with self._slabs_still:
            known = self._known_messages(bfloat16)
            if known is not None:
                return known
            return await asyncio.to_thread(self.messages.make, self.machine.version, bfloat16)

    def _known_messages(self, bfloat16: bool) -> EncodedParameters | None:
        return self.messages.known(self.machine.version, bfloat16=bfloat16)

    async def copy_parameters(self) -> tuple[Version, Float32s]:
        """The current parameters as one private vector, and their version."""
        async with self._slabs_still:
            return self.machine.version, self.shards.flat_parameters()

    def restore(self, snapshot: Snapshot, fresh_lineage: str | None) -> None:
        """Continue a saved job; see core.saved.restore. Raises KeyError, TypeError, ValueError for a foreign state."""
        now_s = self._clock()
        if self._log is not None:
            self._log.restored(snapshot.state, now_s, fresh_lineage)
        restore(self.machine, snapshot.state, now_s, fresh_lineage)
        self.shards.load(snapshot.shards, self.machine.state.step)
        self.ready.set()

    async def image(self) -> Snapshot:
        """The whole state between two updates, copied."""
        async with self._slabs_still:
            state = saved_state(self.machine)
            images = self.shards.images() if self._one_thread else await asyncio.to_thread(self.shards.images)
        return Snapshot(self.name, self.spec, state, images)

    async def drain(self) -> None:
        """Wait for the update that is on its way; end a range test."""
        if self.state_name == "RANGE_TEST":
            self.handle(RangeTestStopRequested())
        while self._commands:
            await asyncio.wait(self._commands)
