"""All jobs of one server process, and the tick that moves their time."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from optimdpb.errors import JobMismatch, Refused
from optimdpb.specs import Async, JobSpec
from optimdpb.specs.job import first_difference

from optimd_server.config import ServerConfig
from optimd_server.core.effects import UploadAwaited, UploadNamed
from optimd_server.core.events import CreateRequested, Version
from optimd_server.core.ledger import EPOCHS_PER_START_BITS
from optimd_server.optimizers import RULES
from optimd_server.runtime.budget import StagingBudget
from optimd_server.runtime.host import JobHost
from optimd_server.runtime.saver import Saver
from optimd_server.runtime.threads import KernelThreads
from optimd_server.storage import STARTS_MAX, DataDirectory, Store

log = logging.getLogger(__name__)

# Jobs that were deleted, so that their workers are told.
DELETED_KEPT = 1000


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
        self._deleted: dict[str, Refused] = {}
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
        start = 1 + secrets.randbelow(STARTS_MAX) if store is None else store.start
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
        """Raises Refused(UNKNOWN_JOB, JOB_DELETED), Refused(JOB_FAILED) for one that could not be restored."""
        host = self.jobs.get(name)
        if host is None:
            self._check_restored(name)
            self._check_not_deleted(name)
            raise Refused("UNKNOWN_JOB", f"expected a job of this server, got {name!r}", job=name)
        return host

    def find_or_create(self, name: str, spec: JobSpec, *, again: bool = False) -> JobHost:
        """The job of that name, made if there is none, or if that one never had its parameters and differs or failed.

        again: the caller has been here before, and what became of the job since is not to be undone. Raises
        JobMismatch, NotServed, Refused(LIMIT_EXCEEDED, BACKLOG_FULL, JOB_FAILED, JOB_DELETED, SHUTTING_DOWN).
        """
        host = self.jobs.get(name)
        found = None if host is None else difference(host, spec)
        is_unused = host is not None and not host.ready.is_set() and not again and bool(found or host.failure)
        if host is not None and not is_unused:
            if found:
                raise JobMismatch(*found)
            return host
        if self.draining:  # nobody would save it
            raise Refused("SHUTTING_DOWN", "the server ends: try again, here or where it comes back")
        if again:
            self._check_not_deleted(name)
        self._check_restored(name)
        self._check_limits(name, spec)
        if is_unused:
            log.warning("job %s never had its parameters: it is created anew", name)
            self._forget(name, Refused("NOT_UPLOADER", f"job {name!r} was created anew meanwhile", job=name))
        try:
            host = JobHost(name, spec, self.config, self._threads, self._budget, self._clock, self._epochs_from)
        except MemoryError as error:
            raise _too_large("memory", self.config.parameters_bytes_max, spec.layout.size_bytes) from error
        self._deleted.pop(name, None)
        self.jobs[name] = host
        self._state_bytes[name] = state_bytes(spec)
        return host

    async def create(
        self, name: str, spec: JobSpec, worker: str, *, again: bool = False
    ) -> tuple[JobHost, UploadNamed | UploadAwaited | None]:
        """Create the job or join in its creation; None when it is ready. Waits a bounded time for another's upload.

        again: see find_or_create().
        """
        deadline_s = self._clock() + self.config.wait_s_max
        while True:
            before = self.jobs.get(name)
            host, again = self.find_or_create(name, spec, again=again), True
            if host is not before:
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

    async def delete(
        self, name: str, *, with_snapshots: bool, expected_lineage: str | None, requester: str
    ) -> tuple[Version, str]:
        """Remove a job in any state, and put aside or remove what is saved of it; harmless where that was done before.

        Returns its version, and where its snapshots are kept, "" if nowhere. Raises Refused(UNKNOWN_JOB,
        REVISION_MISMATCH, STORAGE_FAILED, SHUTTING_DOWN), with the job as it was.
        """
        version = Version("", 0)

        def check() -> None:
            if self.draining:
                raise Refused("SHUTTING_DOWN", "the server ends: try again where it comes back")
            host = self.jobs.get(name)
            lineage = "" if host is None else host.machine.version.lineage
            if expected_lineage is not None and lineage != expected_lineage:
                message = f"expected job {name!r} of lineage {expected_lineage!r}, it is of {lineage!r}"
                raise Refused("REVISION_MISMATCH", message, expected=expected_lineage, got=lineage)

        def done() -> None:
            nonlocal version
            host = self.jobs.get(name)
            if host is None and name not in self.unrestored:
                return
            version = version if host is None else host.machine.version
            message = f"job {name!r} was deleted at step {version.step}{f' by {requester}' if requester else ''}"
            log.warning("%s", message)
            self._deleted[name] = Refused("JOB_DELETED", message, job=name)
            while len(self._deleted) > DELETED_KEPT:
                del self._deleted[next(iter(self._deleted))]
            self.unrestored.pop(name, None)
            self._forget(name, self._deleted[name])

        if self._saver is None:
            check()
            done()
            return self._known(name, version, False, "")
        found, kept = await self._saver.delete(name, for_good=with_snapshots, check=check, done=done)
        return self._known(name, version, found, kept)

    def _known(self, name: str, version: Version, found: bool, kept: str) -> tuple[Version, str]:
        """What delete() returns. Raises Refused(UNKNOWN_JOB) if there was nothing to delete, now or before."""
        if name not in self._deleted and not found:
            raise Refused("UNKNOWN_JOB", f"expected a job of this server, got {name!r}", job=name)
        return version, kept

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
            self._forget(host.name, Refused("NOT_UPLOADER", "it was removed: its upload came too late", job=host.name))

    def _forget(self, name: str, why: Refused) -> None:
        host = self.jobs.pop(name, None)
        if host is not None:
            del self._state_bytes[name]
            # No token and no epoch of it may ever be one of a job of the same name.
            self._epochs_from = max(self._epochs_from, host.machine.state.members.last_epoch) + 1
            host.remove(why)

    def _not_restored(self, name: str, problem: str) -> None:
        self.unrestored[name] = f"job {name!r} could not be restored; what is saved of it is untouched: {problem}"
        self._forget(name, Refused("JOB_FAILED", self.unrestored[name], job=name, failure=self.unrestored[name]))

    def _check_not_deleted(self, name: str) -> None:
        why = self._deleted.get(name)
        if why is not None:
            raise Refused(why.reason, str(why), **why.metadata)

    def _check_restored(self, name: str) -> None:
        """What is saved of a job that could not be restored is not to be replaced by another of its name."""
        failure = self.unrestored.get(name, "")
        if not failure and self._saver is not None and self._saver.refusal(name):
            failure = f"job {name!r} has a snapshot that cannot be read: {self._saver.refusal(name)}"
        if failure:
            raise Refused("JOB_FAILED", failure, job=name, failure=failure)

    def _check_limits(self, name: str, spec: JobSpec) -> None:
        """For a job that takes the place of the one of its name, if there is one. Raises Refused(LIMIT_EXCEEDED)."""
        others = {job: size for job, size in self._state_bytes.items() if job != name}
        kept = spec.consistency.versions_kept if isinstance(spec.consistency, Async) else 0
        limits = (
            ("jobs_max", self.config.jobs_max, len(others) + 1),
            ("tensors_max", self.config.tensors_max, len(spec.layout.tensors)),
            ("parameters_bytes_max", self.config.parameters_bytes_max, (1 + kept) * spec.layout.size_bytes),
            ("state_bytes_max", self.config.state_bytes_max, sum(others.values()) + state_bytes(spec)),
        )
        for bound, limit, value in limits:
            if value > limit:
                raise _too_large(bound, limit, value)


def difference(host: JobHost, spec: JobSpec) -> tuple[str, str, str] | None:
    """(field, what the job has, what the specification has) of the first that differs; None if it is this job's.

    What was changed since the job was made may be as it was or as it is.
    """
    clock, known = host.machine.state.clock, host.spec
    if spec.optimizer != known.optimizer and spec.optimizer == clock.optimizer:
        known = dataclasses.replace(known, optimizer=clock.optimizer)
    if spec.steps_max == clock.steps_max:
        known = dataclasses.replace(known, steps_max=clock.steps_max)
    return first_difference(known, spec)


def state_bytes(spec: JobSpec) -> int:
    """Bytes of a job's parameters, slots and kept versions."""
    slots = next((len(rule.slots) for rule in RULES if type(spec.optimizer) is rule.spec_class), 0)
    kept = spec.consistency.versions_kept if isinstance(spec.consistency, Async) else 0
    return (1 + slots + kept) * spec.layout.size_bytes


def _too_large(name: str, limit: int, value: int) -> Refused:
    message = f"expected at most {name} = {limit}, got {value}"
    return Refused("LIMIT_EXCEEDED", message, limit=name, limit_value=limit, value=value)
