"""Jobs that train on one server through everything that a job can go through, and what must hold at the end.

The i-th gradient of a job takes 1 off element i of its parameters: they tell how often each counted.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optimd
from numpy.typing import NDArray
from optimd.surroundings import Machine
from optimd.transport import GrpcTransport
from optimd_server.runtime import ServerConfig
from optimdpb.errors import OutcomeUnknown, Refused, ServerUnavailable

from tests.campaigns.interrupts import Remote
from tests.support.servers import ThreadServer

PLACES = 64
PATIENCE_S = 10.0
JOIN_S = 60.0
MODELS: dict[str, Any] = {
    "sync": optimd.Sync(workers=2),
    "async": optimd.Async(staleness_max=4, delay_compensation=0.1),
    "new": optimd.Ssp(staleness=2),
    "anew": optimd.Async(),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "on the loop": {"threads": 1},
    "on threads": {"threads": 2, "shards": 2, "inline_bytes_max": 0, "one_thread_bytes_max": 0},
}


class JobOver(Exception):
    """The job has failed."""


@dataclass
class Book:
    """What a job's workers were told. `applied`: places told so; `open`: of which nothing is known."""

    applied: set[int] = field(default_factory=set)
    open: set[int] = field(default_factory=set)
    saved: list[set[int]] = field(default_factory=list)
    places: int = 0
    failed: bool = False

    def begin_anew(self) -> None:
        """The job was deleted; gradients of the next one have places of their own."""
        self.applied, self.open, self.saved, self.failed = set(), set(), [set()], False

    def next_place(self) -> int:
        """Of a gradient of its own."""
        self.places += 1
        return self.places - 1


def one(place: int | None) -> dict[str, NDArray[np.float32]]:
    """The gradient of a place; None for one of nothing."""
    flat = np.zeros(PLACES, np.float32)
    if place is not None:
        flat[place] = 1.0
    return {"a": flat[: PLACES // 2], "b": flat[PLACES // 2 :]}


def flat_of(parameters: Any) -> list[int]:
    """How often each place counted."""
    flat = np.concatenate([parameters["a"], parameters["b"]])
    return [int(-value) for value in flat] if np.array_equal(flat, np.round(flat)) else [-1]


class Story:
    """One life of a server on a folder. What must not be is an AssertionError.

    books: of each job, over several lives. `lost`: jobs whose state was not to be trusted at the end, or was not saved,
    or could not be restored; `not_in_order`: what the end said if it was not; `unmarked`: the disk does not say whose.
    """

    def __init__(self, folder: Path, kind: str, books: dict[str, Book]) -> None:
        self.config = ServerConfig(
            lease_s=20.0,
            wait_s_max=2.0,
            tick_interval_s=0.05,
            data_dir=folder / "data",
            event_log_dir=folder / "log",
            **CONFIGS[kind],
        )
        self.books = books
        self.lost: set[str] = set()
        self.not_in_order = ""
        self.unmarked = False
        self.server: ThreadServer | None = None

    def run(self, before: Story | None = None) -> None:
        """Start, train, stop, after the life before."""
        self.server = ThreadServer(self.config)
        try:
            if before is not None:
                self._check_restored(before)
            self._train()
        finally:
            self.server.stop()
        for book in self.books.values():
            book.saved = [set(book.applied)]

    def run_faulty(self) -> str:
        """The same with a fault in it. Returns what became of it."""
        try:
            self.server = ThreadServer(self.config)
        except Exception as error:
            return f"no start: {type(error).__name__}"
        said = "went on"
        try:
            self._train()
            failed = [job for job, book in self.books.items() if book.failed]
            assert len(failed) <= 1, f"one fault, and {failed} have failed"
            if failed:
                host = self.server.runtime.jobs.get(failed[0])
                said = "not restored" if host is None else "FAILED, saved" if host.is_trusted else "FAILED"
        finally:
            runtime = self.server.runtime
            self.lost = {*runtime.unrestored}
            hosts = dict(runtime.jobs)
            self._stop()
            self.lost |= {job for job, host in hosts.items() if not host.is_trusted} | {*runtime.unsaved}
            self.unmarked = bool(self.not_in_order) and not runtime.unsaved
        return f"{said}, not all saved" if self.not_in_order else said

    def _stop(self) -> None:
        assert self.server is not None
        try:
            self.server.stop()
        except Exception as error:
            self.not_in_order = repr(error)

    def _check_restored(self, before: Story) -> None:
        """Every job is as it was, but for the one that could not be saved: that goes back to what was saved of it."""
        assert self.server is not None
        lost: set[str] = set()
        for job, host in self.server.runtime.jobs.items():
            book, change = self.books[job], host.machine.state.history[-1].change
            parameters = self.server.vectors(job)[0]
            counts = flat_of({"a": parameters[: PLACES // 2], "b": parameters[PLACES // 2 :]})
            if change == "restored":
                check_exact(job, counts, book)
            else:
                lost.add(job)
                told, book.applied = book.applied, {place for place in range(PLACES) if counts[place] == 1}
                assert sum(counts) == len(book.applied), f"{job}: a gradient counted twice: {counts}"
                assert book.applied <= told | book.open, f"{job}: {counts}, told were {told}"
                assert any(saved <= book.applied for saved in book.saved), f"{job}: {counts}, saved were {book.saved}"
                book.open = set()
            book.failed = False
        assert lost <= before.lost or before.unmarked, f"not saved: {lost}, expected of {before.lost}"

    def _train(self) -> None:
        problems: list[BaseException] = []
        threads = [
            threading.Thread(target=self._guarded, args=(problems, work), name=f"story {work.__name__}")
            for work in (self._sync, self._async, self._new, self._anew)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_S)
        assert not any(thread.is_alive() for thread in threads), f"it hangs: {self._waiting()}"
        if problems:
            raise problems[0]
        self._look()

    def _waiting(self) -> dict[str, str]:
        assert self.server is not None
        return {name: self.server.host(name).machine.waiting_for(0.0) for name in self.server.runtime.jobs}

    def _guarded(self, problems: list[BaseException], work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            problems.append(error)

    # --- what workers do -------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Two workers, one of them far away, each in its thread."""
        problems: list[BaseException] = []
        threads = [
            threading.Thread(target=self._guarded, args=(problems, lambda index=index: self._sync_worker(index)))
            for index in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_S)
            assert not thread.is_alive(), f"it hangs: {self._waiting()}"
        if problems:
            raise problems[0]

    def _sync_worker(self, index: int) -> None:
        book = self.books["sync"]
        with self._worker("sync", f"w{index}", far=index == 1) as worker:
            try:
                self._make(worker, "sync")
                for _ in range(3):
                    self._step(worker, book)
            except JobOver:
                book.failed = True

    def _async(self) -> None:
        book = self.books["async"]
        with self._worker("async", "w0") as worker:
            try:
                self._make(worker, "async")
                self._step(worker, book, push=True)
                before = set(book.applied)
                attempt(worker.snapshot)
                book.saved.append(before)
                self._step(worker, book)
                name = f"test {time.monotonic_ns()}"
                attempt(lambda: worker.range_test(lambda _: (one(None), 1.0, 1.0), steps=10, name=name))
                attempt(worker.pull)
                attempt(worker.pause)
                attempt(worker.resume)
                self._step(worker, book)
            except JobOver:
                book.failed = True

    def _new(self) -> None:
        """Made in this very life, unless it was restored; then looked at from far away."""
        book = self.books["new"]
        with self._worker("new", "w0") as worker, self._worker("new", None, far=True) as observer:
            try:
                self._make(worker, "new")
                self._step(worker, book)
                attempt(observer.pull)
                attempt(observer.status)
                self._step(worker, book, push=True)
            except JobOver:
                book.failed = True

    def _anew(self) -> None:
        """What there is is deleted; a first try fails, another takes its place, comes to its end, and goes on."""
        book = self.books["anew"]
        with self._worker("anew", "w0") as worker:
            try:
                attempt(lambda: _delete(worker))
                book.begin_anew()
                nan = {name: np.full_like(array, np.nan) for name, array in one(None).items()}
                with contextlib.suppress(Refused, ServerUnavailable):
                    worker.ensure_job(nan, optimd.SGD(2.0), MODELS["anew"])
                self._make(worker, "anew", steps_max=1)
                self._step(worker, book)
                attempt(lambda: worker.set_steps(PLACES))
                self._step(worker, book)
            except JobOver:
                book.failed = True

    def _worker(self, job: str, name: str | None, *, far: bool = False) -> optimd.Worker:
        assert self.server is not None
        transport = (Remote if far else GrpcTransport)(self.server.address)
        return optimd.Worker(transport, Machine(), job, name, PATIENCE_S)

    def _make(self, worker: optimd.Worker, job: str, **options: Any) -> None:
        clip = optimd.ClipGlobalNorm(1e6) if job == "sync" else None
        make = worker.ensure_job
        attempt(lambda: make(one(None), optimd.SGD(1.0), MODELS[job], reduction="sum", clip=clip, **options))
        attempt(worker.pull)

    def _step(self, worker: optimd.Worker, book: Book, *, push: bool = False) -> None:
        """A gradient of its own, sent until it is told to be applied."""
        place = book.next_place()
        for _ in range(4):
            try:
                send = worker.push if push else worker.step
                result = send(one(place), loss=1.0)
            except OutcomeUnknown:
                book.open.add(place)
                attempt(worker.pull)
                return
            except Refused as error:
                over(error)
                attempt(worker.pull)
                continue
            if result.status == "applied":
                book.applied.add(place)
                if push:
                    attempt(worker.pull)
                return
            attempt(worker.pull)
        raise AssertionError(f"a fault that comes once kept {worker.job} from a step")

    def _look(self) -> None:
        """Jobs that go on hold exactly what was told, those that failed say so, those that are gone have no room."""
        assert self.server is not None
        rooms, jobs = len(self.server.runtime._budget.jobs), len(self.server.runtime.jobs)
        assert rooms == jobs, f"{rooms} jobs have room for gradients, there are {jobs}"
        for job, book in self.books.items():
            with self._worker(job, None) as observer:
                if job in self.server.runtime.unrestored:
                    assert book.failed, f"{job}: {self.server.runtime.unrestored[job]}"
                    continue
                status = observer.status()
                assert (status.state == "failed") == bool(status.failure), f"{job}: {status}"
                assert status.failure or not book.failed, f"{job}: it said JOB_FAILED and is {status.state}"
                book.failed = bool(status.failure)
                if not book.failed:
                    try:
                        counts = flat_of(attempt(observer.pull))
                    except JobOver:  # by a tick since then
                        book.failed = True
                    else:
                        check_exact(job, counts, book)


def _delete(worker: optimd.Worker) -> None:
    try:
        worker.delete_job()
    except Refused as error:
        if error.reason != "UNKNOWN_JOB":
            raise


def attempt(work: Callable[[], Any]) -> Any:
    """Again after an error: a fault comes once. Raises JobOver."""
    for last in (False, False, True):
        try:
            return work()
        except Refused as error:
            over(error)
            if last:
                raise
        except (ServerUnavailable, OutcomeUnknown):
            if last:
                raise
    return None


def over(error: Refused) -> None:
    """Raises JobOver if that is what it says."""
    if error.reason == "JOB_FAILED":
        raise JobOver from error


def check_exact(job: str, counts: list[int], book: Book) -> None:
    """Each gradient told applied counted once, no other one did."""
    for place in range(PLACES):
        least, most = int(place in book.applied), int(place in book.applied | book.open)
        assert least <= counts[place] <= most, f"{job}: gradient {place} counted {counts[place]} times: {book}"


def leaked(before: set[str]) -> str:
    """What is left of threads and descriptors beside those of before, in words."""
    deadline_s = time.monotonic() + 10.0
    while True:
        gc.collect()
        left = resources() - before
        if not left:
            return ""
        if time.monotonic() > deadline_s:
            return f"left behind: {sorted(left)}"
        time.sleep(0.02)


def resources() -> set[str]:
    """Threads, and descriptors of shared memory, files and folders. gRPC has more of both, and keeps them."""
    found = {f"thread {thread.name}" for thread in threading.enumerate() if "_poll_wrapper" not in thread.name}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{name}")
            if link.startswith("/"):
                found.add(link)
    return found
