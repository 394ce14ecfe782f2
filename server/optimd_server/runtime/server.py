"""All jobs of one server process, and the tick that moves their time."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from optimdpb.errors import JobMismatch, Refused
from optimdpb.specs import Async, JobSpec
from optimdpb.specs.job import first_difference

from optimd_server.core.effects import UploadAwaited, UploadNamed
from optimd_server.core.events import CreateRequested
from optimd_server.optimizers import RULES
from optimd_server.runtime.budget import StagingBudget
from optimd_server.runtime.config import ServerConfig
from optimd_server.runtime.host import JobHost
from optimd_server.runtime.saver import Saver
from optimd_server.runtime.threads import KernelThreads
from optimd_server.storage import DataDirectory, Store

log = logging.getLogger(__name__)

# Together 52 bits: epochs are exact in the numbers of any language.
STARTS_BITS, EPOCHS_PER_START_BITS = 20, 32


class Runtime:
    """Owns jobs, kernel threads, clock and store. Use it on the event loop's thread alone.

    store: None for the data directory of the configuration, which is locked at once. Raises OSError if it cannot be
    used. start() restores what it holds; until then there are no jobs, and no time passes. unrestored: jobs that could
    not be restored, by name: why.
    """

    def __init__(
        self,
        config: ServerConfig,
        clock: Callable[[], float] = time.monotonic,
        store: Store | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.incarnation = secrets.token_hex(16)
        self.jobs: dict[str, JobHost] = {}
        self._state_bytes: dict[str, int] = {}
        self.unrestored: dict[str, str] = {}
        self.started = False
        self.draining = False
        self._clock = clock
        # Seconds since 1970, for the history alone.
        self.unix_s = wall_clock
        self._budget = StagingBudget(config.staging_bytes_max)
        if store is None and config.data_dir is not None:
            store = DataDirectory(config.data_dir)
        self._saver = None if store is None else Saver(store)
        try:
            self._threads = KernelThreads(config.threads)
        except BaseException:
            if self._saver is not None:
                self._saver.close()
            raise
        # Epochs of this process: above those of any process before it, as far as anything is remembered of them.
        start = secrets.randbits(STARTS_BITS) if store is None else store.start
        self._epochs_from = start << EPOCHS_PER_START_BITS
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Restore every job, then let time pass. Raises OSError."""
        if self._saver is not None:
            await self._saver.restore(self.find_or_create, self._not_restored)
        self._ticking = asyncio.get_running_loop().create_task(self._tick())
        self.started = True

    @property
    def must_end_in_order(self) -> bool:
        """Whether something may have been served, or marked as being served."""
        return self.started or (self._saver is not None and self._saver.marked)

    def job(self, name: str) -> JobHost:
        """Raises Refused(UNKNOWN_JOB), Refused(JOB_FAILED) for one that could not be restored."""
        host = self.jobs.get(name)
        if host is None:
            self._check_restored(name)
            raise Refused("UNKNOWN_JOB", f"expected a job of this server, got {name!r}", job=name)
        return host

    def find_or_create(self, name: str, spec: JobSpec) -> JobHost:
        """The job of that name, made if there is none.

        Raises JobMismatch, NotServed, Refused(LIMIT_EXCEEDED, BACKLOG_FULL, JOB_FAILED, SHUTTING_DOWN).
        """
        host = self.jobs.get(name)
        if host is None:
            if self.draining:  # nobody would save it
                raise Refused("SHUTTING_DOWN", "the server ends: try again, here or where it comes back")
            self._check_restored(name)
            self._check_limits(spec)
            try:
                host = JobHost(name, spec, self.config, self._threads, self._budget, self._clock, self._epochs_from)
            except MemoryError as error:
                raise _too_large("memory", self.config.parameters_bytes_max, spec.layout.size_bytes) from error
            self.jobs[name] = host
            self._state_bytes[name] = state_bytes(spec)
            return host
        difference = first_difference(host.spec, spec)
        if difference:
            raise JobMismatch(*difference)
        return host

    async def create(self, name: str, spec: JobSpec, worker: str) -> tuple[JobHost, UploadNamed | UploadAwaited | None]:
        """Create the job or join in its creation; None when it is ready. Waits a bounded time for another's upload."""
        deadline_s = self._clock() + self.config.wait_s_max
        while True:
            is_new = name not in self.jobs
            host = self.find_or_create(name, spec)
            if is_new:
                text = "job %s created by %s: %s, %s, %d tensors, %d elements"
                rule, model = type(spec.optimizer).__name__, type(spec.consistency).__name__
                log.info(text, name, worker, rule, model, len(spec.layout.tensors), spec.layout.elements)
            answer = host.handle(CreateRequested(worker))[0]
            if isinstance(answer, UploadNamed):
                return host, answer
            if host.ready.is_set():
                return host, None
            if self.draining or self._clock() >= deadline_s:
                return host, UploadAwaited()
            try:
                async with asyncio.timeout(self.config.tick_interval_s):
                    await host.ready.wait()
            except TimeoutError:
                continue

    def wait_s(self) -> float:
        """How long a call may wait for a round now."""
        return 0.0 if self.draining else self.config.wait_s_max

    def freeze(self) -> None:
        """Let waiting calls answer, refuse all others, finish the updates on their way, and no others.

        No lease ends any more and no round times out: what happened behind the last snapshot would be forgotten.
        """
        self.draining = True
        if self._ticking is not None:
            self._ticking.cancel()
        for host in self.jobs.values():
            host.freeze()

    def hurry(self) -> None:
        """At the end try nothing again."""
        if self._saver is not None:
            self._saver.hurried = True

    @property
    def saved_all(self) -> bool:
        """Whether nothing is lost if the process ends now."""
        return self._saver is None or not self.started or (self._saver.ended and not self._saver.unsaved)

    @property
    def unsaved(self) -> list[str]:
        """Jobs that save_all() has not saved, or not yet."""
        return [] if self._saver is None else sorted(self._saver.unsaved)

    async def save(self, host: JobHost) -> Path:
        """Save a job now; where its snapshot is. Raises Refused(NO_DATA_DIRECTORY, JOB_NOT_READY, STORAGE_FAILED)."""
        if self._saver is None:
            raise Refused("NO_DATA_DIRECTORY", "expected a server that was started with --data-dir")
        return await self._saver.save(host)

    async def save_all(self) -> None:
        """Save every job that is ready, after freeze(). Raises Refused(STORAGE_FAILED).

        A server that has not started changes nothing.
        """
        if self._saver is not None and self.started:
            await self._saver.save_all(list(self.jobs.values()))

    async def close(self) -> None:
        """End ticking and threads, let go of the data directory."""
        if self._saver is not None:
            self._saver.close()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        for host in self.jobs.values():
            host.close()
        self._threads.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.config.tick_interval_s)
            for host in list(self.jobs.values()):
                try:
                    self._tick_of(host)
                except Exception:  # without ticks no lease of any job ends and no round times out
                    log.exception("a tick of job %s failed", host.name)

    def _tick_of(self, host: JobHost) -> None:
        host.tick()
        if host.machine.state.creation.is_forgotten(host.now_s(), self.config.upload_idle_s):
            log.warning("job %s removed: it never got its parameters, and nobody asks for it", host.name)
            self._forget(host.name)

    def _forget(self, name: str) -> None:
        host = self.jobs.pop(name, None)
        if host is not None:
            del self._state_bytes[name]
            host.remove()

    def _not_restored(self, name: str, problem: str) -> None:
        self.unrestored[name] = f"job {name!r} could not be restored; what is saved of it is untouched: {problem}"
        self._forget(name)

    def _check_restored(self, name: str) -> None:
        """What is saved of a job that could not be restored is not to be replaced by another of its name."""
        failure = self.unrestored.get(name, "")
        if not failure and self._saver is not None and self._saver.refusal(name):
            failure = f"job {name!r} has a snapshot that cannot be read: {self._saver.refusal(name)}"
        if failure:
            raise Refused("JOB_FAILED", failure, job=name, failure=failure)

    def _check_limits(self, spec: JobSpec) -> None:
        kept = spec.consistency.versions_kept if isinstance(spec.consistency, Async) else 0
        limits = (
            ("jobs_max", self.config.jobs_max, len(self.jobs) + 1),
            ("tensors_max", self.config.tensors_max, len(spec.layout.tensors)),
            ("parameters_bytes_max", self.config.parameters_bytes_max, (1 + kept) * spec.layout.size_bytes),
            ("state_bytes_max", self.config.state_bytes_max, sum(self._state_bytes.values()) + state_bytes(spec)),
        )
        for name, limit, value in limits:
            if value > limit:
                raise _too_large(name, limit, value)


def state_bytes(spec: JobSpec) -> int:
    """Bytes of a job's parameters, slots and kept versions."""
    slots = next((len(rule.slots) for rule in RULES if type(spec.optimizer) is rule.spec_class), 0)
    kept = spec.consistency.versions_kept if isinstance(spec.consistency, Async) else 0
    return (1 + slots + kept) * spec.layout.size_bytes


def _too_large(name: str, limit: int, value: int) -> Refused:
    message = f"expected at most {name} = {limit}, got {value}"
    return Refused("LIMIT_EXCEEDED", message, limit=name, limit_value=limit, value=value)
