"""Interrupts at every line, or every bytecode, of the client, and what must hold behind each.

Gradient i adds 1 to element i of the parameters and nothing else, so that the parameters tell how often each counted.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import numpy as np
import optimd
from numpy.typing import NDArray
from optimd.surroundings import Machine
from optimd.transport import CallLost, GrpcTransport, NotShared
from optimdpb.v1 import optimd_pb2 as pb

from tests.campaigns.injecting import Injector, Interrupt, Report
from tests.support.calls import RawClient, push_messages
from tests.support.servers import ThreadServer

SMALL, LARGE = 16_000, 20_000
# Pushed beside each gradient's own element, in a block of int8 whose scale is 1/128: the dust is less than it can say
# at once, so that error feedback must carry it on, and does without rounding.
GROUND, DUST = 127 / 128, 0.375 / 128


class Remote(GrpcTransport):
    """As on another machine: no shared memory, no unix socket."""

    def share_memory(self, *_: Any) -> Any:
        """See Transport."""
        raise NotShared("as on another machine")

    def open_local(self, *_: Any) -> None:
        """See Transport."""
        raise CallLost("as on another machine")


@dataclass(frozen=True)
class Way:
    """How payloads travel."""

    elements: int
    is_remote: bool
    push_dtype: str = "float32"


WAYS = {
    "shared memory": Way(LARGE, is_remote=False),
    "unix socket": Way(SMALL, is_remote=False),
    "stream": Way(LARGE, is_remote=True),
    "unary": Way(SMALL, is_remote=True),
    "int8": Way(LARGE, is_remote=True, push_dtype="int8"),
    "bfloat16": Way(LARGE, is_remote=True, push_dtype="bfloat16"),
}


@dataclass
class Books:
    """What became of gradient i: it counts once, not at all, or the call raised and it is not known."""

    once: set[int] = field(default_factory=set)
    never: set[int] = field(default_factory=set)
    open: set[int] = field(default_factory=set)

    def check(self, flat: NDArray[np.float32]) -> None:
        """The parameters say the same. What was open is settled behind the next push that got its outcome."""
        counts = np.rint(-flat[: flat.size // 2]).astype(int)
        assert set(np.unique(counts)) <= {0, 1}, f"a gradient counts {counts.min()} to {counts.max()} times"
        counted = set(np.flatnonzero(counts))
        assert not self.once - counted, f"said to be applied, and lost: {self.once - counted}"
        assert not counted & self.never, f"said not to be applied, and counted: {counted & self.never}"
        assert counted <= self.once | self.open, f"counted without being sent: {counted - self.once - self.open}"

    def settle(self, flat: NDArray[np.float32]) -> None:
        """Nothing is open any more: what has not counted by now never may."""
        self.check(flat)
        counted = set(np.flatnonzero(np.rint(-flat[: flat.size // 2])))
        self.once, self.never, self.open = self.once | counted, self.never | (self.open - counted), set()


class Scene:
    """One worker on one job, over one way."""

    def __init__(self, server: ThreadServer, job: str, way: Way, consistency: Any) -> None:
        self.server, self.job, self.way, self.consistency = server, job, way, consistency
        self.books = Books()
        self.gradients_left = way.elements // 2
        make = Remote if way.is_remote else GrpcTransport
        self.worker = optimd.Worker(make(server.address), Machine(), job, "w0", 20.0, way.push_dtype)
        self.start = {"w": np.zeros(way.elements, np.float32)}
        self.ensure_job()
        self.worker.pull()

    def ensure_job(self) -> None:
        """Create, or verify, and join."""
        self.worker.ensure_job(self.start, optimd.SGD(1.0), self.consistency)

    def push(self, push: Callable[[dict[str, NDArray[np.float32]], int], Any]) -> Any:
        """A new gradient by that call; its result."""
        assert self.gradients_left, "expected a larger model"
        self.gradients_left -= 1
        number = self.gradients_left
        self.books.open.add(number)
        result = push({}, number)
        (self.books.once if result.status == "applied" else self.books.never).add(number)
        self.books.open.remove(number)
        return result

    def step(self, **options: Any) -> Any:
        """One step() with a new gradient in arrays of its own."""
        return self.push(lambda _, number: self.worker.step(self._gradient(number), **options))

    def push_only(self) -> Any:
        """One push() with a new gradient."""
        return self.push(lambda _, number: self.worker.push(self._gradient(number)))

    def step_in_place(self) -> Any:
        """One step() with a gradient that was computed where it is sent from."""

        def push(_: Any, number: int) -> Any:
            views = self.worker.gradient_buffers()
            views["w"][:] = self._gradient(number)["w"]
            return self.worker.step(views)

        return self.push(push)

    def _gradient(self, number: int) -> dict[str, NDArray[np.float32]]:
        flat = np.zeros(self.way.elements, np.float32)
        flat[number] = 1.0
        flat[-2], flat[-1] = GROUND, DUST
        return {"w": flat}

    def go_on(self) -> None:
        """The next calls find out what became of the last: the worker works, and the books add up."""
        transport: Any = self.worker._session.transport
        self.worker.pull()
        result = self.step()
        assert result.status == "applied", f"expected applied, got {result.status} {result.reason}"
        self.books.settle(result.parameters["w"])
        flat = self.server.vectors(self.job)[0]
        self.books.settle(flat)
        assert (flat == result.parameters["w"]).all(), "these are not the server's parameters"
        self._check_dust(flat)
        for name in ("step", "push"):  # what a preparation has put there
            transport.__dict__.pop(name, None)

    def _check_dust(self, flat: NDArray[np.float32]) -> None:
        """What error feedback carries on is neither lost nor told twice."""
        applied = len(self.books.once)
        assert float(-flat[-2]) == applied * GROUND
        if self.way.push_dtype == "int8":
            _, encoder = self.worker._pusher._encoder  # type: ignore[misc]
            carried = (encoder._lost[-1:].astype(np.uint32) << 16).view(np.float32)  # type: ignore[attr-defined]
            assert float(-flat[-1]) + float(carried[0]) == applied * DUST, "error feedback lost or told twice"
        status = self.worker.status()
        assert (status.applied, status.rejected) == (applied, 0)

    def end(self) -> None:
        """Leave, and nothing is left behind."""
        self.worker.leave()
        self.worker.close()


def _forgotten_by_the_server(scene: Scene) -> None:
    """Somebody else has ended the membership: the next call meets NOT_JOINED."""
    if not (epoch := scene.worker._membership.epoch):
        return
    with RawClient(scene.server.address) as client, contextlib.suppress(grpc.RpcError):  # it may have gone before
        client.call("Leave", pb.LeaveRequest(job=scene.job, worker="w0", epoch=epoch))


def _interrupted(scene: Scene) -> None:
    """A push is open: the call was cut off when the server had answered."""
    transport: Any = scene.worker._session.transport

    def cut(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            call(*arguments)
            raise Interrupt

        return run

    transport.step, transport.push = cut(transport.step), cut(transport.push)
    try:
        scene.step()
    except Interrupt:
        pass
    finally:
        del transport.step, transport.push


def _never_sent(scene: Scene) -> None:
    """A push is open of which the server has seen nothing: the next call must fence it."""
    transport: Any = scene.worker._session.transport

    def cut(*_: Any) -> Any:
        raise Interrupt

    transport.step = transport.push = cut
    try:
        scene.step()
    except Interrupt:
        pass
    finally:
        del transport.step, transport.push


def _late(scene: Scene) -> None:
    """A push is open whose bytes arrive when the next one goes out."""
    transport: Any = scene.worker._session.transport
    late: list[Any] = []

    def cut(header: Any, payload: Any, _: float) -> Any:
        first = pb.PushHeader()
        first.CopyFrom(header)
        late.append((first, payload.flat.copy()))
        raise Interrupt

    def arriving(send: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            while late:
                header, flat = late.pop()
                header.shared_buffer, header.encoding, header.payload_bytes = 0, pb.ENCODING_F32, flat.nbytes
                with RawClient(scene.server.address) as client, contextlib.suppress(grpc.RpcError):
                    client.call("Push", push_messages(header, flat))
            return send(*arguments)

        return run

    transport.step = transport.push = cut
    try:
        scene.step()
    except Interrupt:
        pass
    finally:
        del transport.step, transport.push
    transport.step, transport.push = arriving(transport.step), arriving(transport.push)


def _left(scene: Scene) -> None:
    scene.worker.leave()


def _nothing(_: Scene) -> None:
    """As it is."""


# What is cut off, and what comes before it.
CALLS: dict[str, tuple[Callable[[Scene], Any], Callable[[Scene], Any]]] = {
    "step": (lambda scene: scene.step(), _nothing),
    "step of views": (lambda scene: scene.step(copy=False), _nothing),
    "step in place": (lambda scene: scene.step_in_place(), _nothing),
    "push": (lambda scene: scene.push_only(), _nothing),
    "pull": (lambda scene: scene.worker.pull(), _nothing),
    "pull of views": (lambda scene: scene.worker.pull(copy=False), _nothing),
    "join": (lambda scene: scene.step(), _left),
    "join again": (lambda scene: scene.step(), _forgotten_by_the_server),
    "settle": (lambda scene: scene.step(), _interrupted),
    "fence": (lambda scene: scene.step(), _never_sent),
    "fence what comes late": (lambda scene: scene.step(), _late),
    "leave": (lambda scene: scene.worker.leave(), _nothing),
    "ensure_job": (lambda scene: scene.ensure_job(), _nothing),
    "snapshot": (lambda scene: scene.worker.snapshot(), _nothing),
}


def at_every_event(scene: Scene, name: str, *, by_bytecode: bool = False, first: int = 0, stride: int = 1) -> Report:
    """Cut a call off at its first event, its second, ... until it is through; after each see that all is well."""
    call, prepare = CALLS[name]
    injector, report = Injector(by_bytecode=by_bytecode), Report()
    for countdown in itertools.count(first, stride):
        prepare(scene)
        try:
            cut = injector.run(lambda: call(scene), countdown)
            scene.go_on()
        except BaseException as error:
            error.add_note(f"{name}: interrupt at event {countdown}, one of {sorted(injector.places)[-1:]}")
            raise
        if not cut:
            break
        report.interrupts += 1
    report.places = injector.places
    return report


def at_random(scene: Scene, seed: int, calls: int, *, by_bytecode: bool = False) -> Report:
    """Calls one after the other, most cut off somewhere, also while they find out about the one before."""
    dice, injector, report = random.Random(seed), Injector(by_bytecode=by_bytecode), Report()
    events = 3000 if by_bytecode else 300
    for _ in range(calls):
        for _ in range(dice.randrange(1, 5)):
            call, prepare = CALLS[dice.choice(sorted(CALLS))]
            if scene.worker._base is None:
                scene.worker.pull()
            prepare(scene)
            if scene.worker._base is None:
                scene.worker.pull()
            report.interrupts += injector.run(lambda: call(scene), int(events ** dice.random()))  # noqa: B023
        scene.go_on()
    report.places = injector.places
    return report


def while_a_job_is_made(server: ThreadServer, prefix: str, way: Way, *, first: int = 0, stride: int = 1) -> Report:
    """Cut off the call that creates a job and uploads its parameters; the next one must bring it to its end."""
    injector, report = Injector(by_bytecode=False), Report()
    make = Remote if way.is_remote else GrpcTransport
    start = {"w": np.arange(way.elements, dtype=np.float32)}
    for countdown in itertools.count(first, stride):
        with optimd.Worker(make(server.address), Machine(), f"{prefix}-{countdown}", "w0", 20.0) as worker:
            ensure = partial(worker.ensure_job, start, optimd.SGD(1.0), optimd.Async())
            cut = injector.run(ensure, countdown)
            ensure()
            assert (worker.pull()["w"] == start["w"]).all()
            assert worker.step({"w": np.ones(way.elements, np.float32)}).status == "applied"
        if not cut:
            break
        report.interrupts += 1
    report.places = injector.places
    return report


def by_signals(scene: Scene, seconds: float) -> Report:
    """Real signals in a loop of steps, as of a user's alarm."""

    def ring(*_: Any) -> None:
        raise Interrupt

    dice, report, end_s = random.Random(0), Report(), time.monotonic() + seconds
    before = signal.signal(signal.SIGALRM, ring)
    try:
        while time.monotonic() < end_s and scene.gradients_left > 100:
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(2e-4, 5e-3))
                for _ in range(90):
                    scene.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                report.interrupts += 1
            scene.go_on()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return report
