"""Every state in which a client can wait, with the sentence that its log must hold; and every place where it waits."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optimd
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import JobSpec, Layout, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient
from tests.support.proxy import Proxy
from tests.support.servers import ThreadServer

START = {"w": np.zeros(4, np.float32)}
ONES = {"w": np.ones(4, np.float32)}
LARGE = {"w": np.ones(3_000_000, np.float32)}
LINK_BYTES_PER_S = 4e6


@dataclass
class Stage:
    """A server, and calls that wait on threads of their own."""

    server: ThreadServer
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    workers: list[optimd.Worker] = field(default_factory=list)
    calls: list[Future[Any]] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)
    link: Proxy | None = None

    def connect(self, name: str | None, address: str = "") -> optimd.Worker:
        address = address or self.server.address
        worker = optimd.connect(address, job="j", worker=name, observer=name is None, timeout_s=0.6)
        self.workers.append(worker)
        return worker

    def join(self, name: str, consistency: Any) -> optimd.Worker:
        worker = self.connect(name)
        worker.ensure_job(START, optimd.SGD(1.0), consistency)
        worker.pull()
        return worker

    def start(self, call: Callable[..., Any], *args: Any) -> None:
        self.calls.append(self.threads.submit(call, *args))

    def hang(self) -> None:
        """From here on the server takes connections and answers nothing, as one that is stopped."""
        hangs = threading.Event()

        def hang() -> None:
            hangs.set()
            self.goes_on.wait(30)

        self.server._loop.call_soon_threadsafe(hang)
        assert hangs.wait(10)

    def over_a_slow_link(self, name: str | None) -> optimd.Worker:
        self.link = self.link or Proxy(self.server.address, LINK_BYTES_PER_S)
        return self.connect(name, self.link.address)

    def end(self) -> None:
        """Of all waits, in order."""
        self.goes_on.set()
        if self.link is not None:
            self.link.bytes_per_s = 0.0
        for worker in self.workers:
            worker._membership.stop()
        self.server.stop()
        for call in self.calls:
            call.exception(30)
        self.threads.shutdown()
        for worker in self.workers:
            worker.close()
        if self.link is not None:
            self.link.close()


def round_not_open(stage: Stage) -> None:
    stage.start(stage.join("a", optimd.Sync(3)).step, ONES)


def round_waits(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    stage.start(a.step, ONES)


def push_waits(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    stage.start(a.push, ONES)


def a_worker_that_died(stage: Stage) -> None:
    a, b = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    b._membership.leave(failed=True)
    stage.start(a.step, ONES)


def all_others_left(stage: Stage) -> None:
    a, b = stage.join("a", optimd.Sync(2, workers_min=2)), stage.join("b", optimd.Sync(2, workers_min=2))
    b.leave()
    stage.start(a.step, ONES)


def ssp_waits(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Ssp(0)), stage.join("b", optimd.Ssp(0))
    stage.start(a.step, ONES)


def paused(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    a.pause()
    stage.start(a.step, ONES)


def in_a_range_test(stage: Stage) -> None:
    a, _ = stage.join("a", optimd.Sync(2)), stage.join("b", optimd.Sync(2))
    stage.start(a.range_test, lambda _: (ONES, 1.0, 1.0))


def another_uploads(stage: Stage) -> None:
    spec = JobSpec(Layout((Tensor("w", (4,)),)), optimd.SGD(1.0), optimd.Sync(2))
    with RawClient(stage.server.address) as client:
        client.call("CreateJob", pb.CreateJobRequest(job="j", spec=job_spec_to_proto(spec), worker="elsewhere"))
    stage.start(stage.connect("a").ensure_job, START, optimd.SGD(1.0), optimd.Sync(2))


def replaces_what_others_work_on(stage: Stage) -> None:
    stage.join("b", optimd.Async()).step(ONES)
    a = stage.connect("a")
    stage.start(lambda: a.ensure_job(START, optimd.SGD(1.0), optimd.Async(), if_exists="replace"))


def no_room(stage: Stage) -> None:
    for name in "abc":
        stage.join(name, optimd.Sync(3))
    stage.start(stage.join, "d", optimd.Sync(3))


def calls_in_hand(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.server._service.gate.calls_max = 0
    stage.start(a.step, ONES)


def starts(stage: Stage) -> None:
    stage.server._service.gate.open = False
    stage.start(stage.join, "a", optimd.Async())


def ends(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.server.on_loop(stage.server.runtime.freeze)
    stage.start(a.step, ONES)


def gone(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.server.stop()
    stage.start(a.step, ONES)


def gone_for_a_pull(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.server.stop()
    stage.start(a.pull)


def not_there_yet(stage: Stage) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    stage.start(stage.connect("a", address).ensure_job, START, optimd.SGD(1.0), optimd.Async())


def snapshot(stage: Stage) -> None:
    a = stage.join("a", optimd.Async())

    async def save(_: Any) -> Any:
        while not stage.goes_on.is_set():
            await asyncio.sleep(0.01)
        raise OSError("a slow disk")

    stage.server.runtime.save = save  # type: ignore[method-assign]
    stage.start(a.snapshot)


def uploads_slowly(stage: Stage) -> None:
    stage.start(stage.over_a_slow_link("a").ensure_job, LARGE, optimd.SGD(1.0), optimd.Async())


def pushes_slowly(stage: Stage) -> None:
    stage.connect(None).ensure_job(LARGE, optimd.SGD(1.0), optimd.Async())
    a = stage.over_a_slow_link("a")
    a._base = pb.Version(lineage=a.status().lineage, step=0)  # as if pulled before
    stage.start(a.push, LARGE)


def pulls_slowly(stage: Stage) -> None:
    stage.connect(None).ensure_job(LARGE, optimd.SGD(1.0), optimd.Async())
    stage.start(stage.over_a_slow_link(None).pull)


def hung(call: Callable[[optimd.Worker], object]) -> Callable[[Stage], None]:
    """A call of a member whose server hangs."""

    def arrange(stage: Stage) -> None:
        a = stage.join("a", optimd.Async())
        stage.hang()
        stage.start(call, a)

    return arrange


def hung_at_once(call: Callable[[optimd.Worker], object]) -> Callable[[Stage], None]:
    """The first call of a worker."""

    def arrange(stage: Stage) -> None:
        stage.join("b", optimd.Async())
        a = stage.connect("a")
        stage.hang()
        stage.start(call, a)

    return arrange


def hung_for_an_observer(stage: Stage) -> None:
    stage.join("b", optimd.Async())
    observer = stage.connect(None)
    observer.pull()
    stage.hang()
    stage.start(observer.pull)


@dataclass(frozen=True)
class Wait:
    """arrange: begins a call that waits. config: what the server has beside the others'."""

    arrange: Callable[[Stage], None]
    sentence: str
    config: dict[str, Any] = field(default_factory=dict)


ROOMY = {"staging_bytes_max": 1 << 30, "shared_memory": False}
NO_ANSWER = "no answer of the server (it hangs or is away, or the link is slow): DEADLINE_EXCEEDED"

WAITS = {
    "the round is not open": Wait(round_not_open, "round 0 opens with 3 workers: 1 live"),
    "the round waits for another": Wait(round_waits, "round 0 waits for b ("),
    "a push, too": Wait(push_waits, "round 0 waits for b ("),
    "with a lease of an hour": Wait(round_waits, "round 0 waits for b (", {"lease_s": 3600.0}),
    "one has died": Wait(a_worker_that_died, "round 0 closes with 2 workers: 1 live"),
    "one has left that the job needs": Wait(all_others_left, "round 0 closes with 2 workers: 1 live, b left"),
    "Ssp": Wait(ssp_waits, "a waits for b ("),
    "paused": Wait(paused, "the job is paused at step 0: optimd resume lets it go on"),
    "a range test that others do not take part in": Wait(in_a_range_test, "round 0 waits for b ("),
    "another creator uploads": Wait(another_uploads, "the job waits for its parameters from elsewhere"),
    "others work on what is to be replaced": Wait(
        replaces_what_others_work_on, "trying again: job 'j' cannot be replaced while others work on it: b"
    ),
    "no room for its gradients": Wait(no_room, "trying again: expected room for"),
    "too many calls in hand": Wait(calls_in_hand, "trying again: expected at most calls_max = 0 calls in hand"),
    "the server starts": Wait(starts, "trying again: UNAVAILABLE: the server compiles or restores"),
    "the server ends": Wait(ends, "trying again: UNAVAILABLE: the server ends: try again, here or where it comes"),
    "no server any more, a step": Wait(gone, "trying again: UNAVAILABLE"),
    "no server any more, a pull": Wait(gone_for_a_pull, "trying again: UNAVAILABLE"),
    "no server yet": Wait(not_there_yet, "nothing listens there: it has not started yet, or host or port are others"),
    "a snapshot": Wait(snapshot, "the job is at step 0 and waits for nobody: the call is under way"),
    "an upload over a slow link": Wait(uploads_slowly, " of 12.0 MB have gone out, the last of them ", ROOMY),
    "a push over a slow link": Wait(pushes_slowly, " of 12.0 MB have gone out, the last of them ", ROOMY),
    "a pull over a slow link": Wait(pulls_slowly, " of 12.0 MB have come, the last of them ", ROOMY),
    "a pull of an observer from a server that hangs": Wait(hung_for_an_observer, NO_ANSWER),
}
# Calls of a worker whose server takes connections and answers nothing.
HUNG_CALLS: dict[str, Callable[[optimd.Worker], object]] = {
    "pull": lambda worker: worker.pull(),
    "push": lambda worker: worker.push(ONES),
    "step": lambda worker: worker.step(ONES),
    "status": lambda worker: worker.status(),
    "set_schedules": lambda worker: worker.set_schedules({"lr": 0.5}),
    "set_steps": lambda worker: worker.set_steps(7),
    "pause": lambda worker: worker.pause(),
    "resume": lambda worker: worker.resume(),
    "range_test": lambda worker: worker.range_test(lambda _: (ONES, 1.0, 1.0)),
    "snapshot": lambda worker: worker.snapshot(),
    "delete_job": lambda worker: worker.delete_job(),
}
HUNG_FIRST_CALLS: dict[str, Callable[[optimd.Worker], object]] = {
    "ensure_job": lambda worker: worker.ensure_job(START, optimd.SGD(1.0), optimd.Async()),
    "gradient_buffers": lambda worker: worker.gradient_buffers(),
}
# These do not insist on an answer.
BRIEF_CALLS: dict[str, Callable[[optimd.Worker], object]] = {
    "leave": lambda worker: worker.leave(),
    "close": lambda worker: worker.close(),
}
WAITS |= {f"{name}() and a server that hangs": Wait(hung(call), NO_ANSWER) for name, call in HUNG_CALLS.items()}
WAITS |= {
    f"{name}() first, and a server that hangs": Wait(hung_at_once(call), NO_ANSWER)
    for name, call in HUNG_FIRST_CALLS.items()
}
