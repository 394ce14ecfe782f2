"""Calls between fibers and the server: late, lost, doubled, cut, broken, and the transport that makes them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from optimd.encoding import Payload
from optimd.transport import CallLost, CallThrottled, NotShared, SharedMemory
from optimd.transport.failures import failure_of
from optimd_server.runtime import Runtime
from optimd_server.service import dispatch
from optimd_server.service.changes import ChangeService
from optimd_server.service.dispatch import Gate
from optimd_server.service.errors import status_of
from optimd_server.service.jobs import JobService
from optimd_server.service.payloads import PayloadService
from optimd_server.service.workers import WorkerService
from optimdpb.checksum import crc32c
from optimdpb.errors import Refused
from optimdpb.frames import Framed, framed, with_data
from optimdpb.v1 import optimd_pb2 as pb

from tests.simulation.interrupts import Interrupted
from tests.simulation.loop import Fiber, SimulatedLoop

Float32s = NDArray[np.float32]
# For ever.
STALLED_S = 1e6
# Interrupted in between, a client may ask once more.
WAITS_MAX = 3
# What the server does for one call: gets its methods by name, returns the answer.
Exchange = Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]


# Statuses that no server of the contract makes: proxies, gRPC itself, a handler that failed.
FOREIGN = (
    (grpc.StatusCode.UNKNOWN, "Stream removed"),
    (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    (grpc.StatusCode.CANCELLED, "CANCELLED"),
)


@dataclass
class Weather:
    """Chances of what may happen to a call, and how long ways are."""

    latency_s: float = 0.002
    slow: float = 0.0
    slow_s: float = 1.0
    request_lost: float = 0.0
    reply_lost: float = 0.0
    doubled: float = 0.0
    cut: float = 0.0


class Network:
    """Between all clients and one server. `methods`: None while the server is down. `cut_off`: who cannot reach it.

    broken: chance that a proxy or a defect answers a call with a status of its own, before or after the server.
    stalled: chance that a stream of a client stops in its middle.
    """

    def __init__(self, loop: SimulatedLoop, dice: random.Random) -> None:
        self._loop = loop
        self._dice = dice
        self.weather = Weather()
        self.broken = self.stalled = 0.0
        self._joins: dict[str, set[object]] = {}
        self.methods: dict[str, Any] | None = None
        self.cut_off: set[str] = set()
        self.handling: dict[Call, None] = {}
        self.calls = 0

    def way_s(self) -> float:
        """How long one way takes now."""
        weather, dice = self.weather, self._dice
        slow_s = dice.random() * weather.slow_s if weather.slow and dice.random() < weather.slow else 0.0
        return dice.random() * weather.latency_s + slow_s

    def happens(self, chance: float) -> bool:
        """One throw."""
        return chance > 0.0 and self._dice.random() < chance

    def fraction(self) -> float:
        """A number from 0 to 1."""
        return self._dice.random()

    def send(self, call: Call) -> None:
        """A call goes out; in bad weather twice."""
        self.calls += 1
        self._note_join(call)
        weather = self.weather
        if self.happens(weather.request_lost):
            self._lose(call)
        else:
            self._loop.call_later(self.way_s(), self._arrive, call)
        if self.happens(weather.doubled):
            twin = call.twin()
            self._note_join(twin)
            self._loop.call_later(self.way_s() + self._dice.random(), self._arrive, twin)

    def crash(self) -> None:
        """The server is gone: every open call ends."""
        self.methods = None
        handling, self.handling = self.handling, {}
        for call in handling:
            self._loop.call_later(self.way_s(), call.finish, CallLost("connection reset"))

    def joins(self, worker: str) -> int:
        """How many have joined under this name, by themselves or because the network doubled a call."""
        return len(self._joins.get(worker, ()))

    def _note_join(self, call: Call) -> None:
        if call.method == "Join":
            self._joins.setdefault(call.caller, set()).add(call.sender)

    def _lose(self, call: Call) -> None:
        """Noticed soon, or only when its time is over."""
        if self.happens(0.7):
            self._loop.call_later(self.way_s(), call.finish, CallLost("connection reset"))

    def _arrive(self, call: Call) -> None:
        if call.done:
            return
        if self.methods is None or call.caller in self.cut_off:
            self._loop.call_later(self.way_s(), call.finish, CallLost("unavailable"))
            return
        if self.happens(self.broken / 2):
            self._loop.call_later(self.way_s(), call.finish, self._broken())
            return
        self._begin(call)
        if self.happens(self.weather.cut):
            self._loop.call_later(self._dice.random() * 0.01, call.cancel)

    def _begin(self, call: Call) -> None:
        assert self.methods is not None
        self.handling[call] = None
        call.began_s = self._loop.time()
        call.task = self._loop.create_task(call.exchange(self.methods))
        call.task.add_done_callback(lambda task: self._answer(call, task))

    def give_up(self, call: Call) -> None:
        """The caller waits no more: the server is told to stop, which may be before it has begun, or too late."""
        call.done = True
        if call.task is not None:
            self._loop.call_later(self.way_s(), call.cancel)
        elif self.methods is not None and call.caller not in self.cut_off and self.happens(0.5):
            self._begin(call)
            self._loop.call_soon(self._loop.call_soon, call.cancel)

    def _answer(self, call: Call, task: asyncio.Task[Any]) -> None:
        self.handling.pop(call, None)
        if task.cancelled():
            self._lose(call)
            return
        error = task.exception()
        if error is not None and not isinstance(error, Refused):
            self._loop.fail(error)
            return
        answer = task.result() if error is None else self._failure(error)
        if self.happens(self.broken / 2):
            answer = self._broken()
        if call.caller in self.cut_off or self.happens(self.weather.reply_lost):
            self._lose(call)
        else:
            self._loop.call_later(self.way_s(), call.finish, answer)

    def _failure(self, error: Refused) -> Exception:
        """What the client makes of a refusal."""
        code, status = status_of(error)
        failure = failure_of(code, status.message, status.SerializeToString())
        if isinstance(failure, CallThrottled):
            failure.retry_delay_s = 0.5 + self._dice.random()
        return failure

    def _broken(self) -> Exception:
        """A status that says nothing about the call."""
        if self.happens(0.25):
            return self._failure(Refused("INTERNAL", "the server failed", incident="simulated"))
        return failure_of(*self._dice.choice(FOREIGN), b"")


class Call:
    """One call of one fiber; a twin, sent by the network itself, has no fiber and nobody hears its answer."""

    def __init__(self, caller: str, method: str, exchange: Exchange, fiber: Fiber | None, sender: object) -> None:
        self.caller = caller
        self.method = method
        self.exchange = exchange
        self.fiber = fiber
        self.sender = sender
        self.task: asyncio.Task[Any] | None = None
        self.began_s = 0.0
        self.done = False

    def twin(self) -> Call:
        """The same call again."""
        return Call(self.caller, self.method, self.exchange, None, object())

    def finish(self, answer: object) -> None:
        """The caller learns the answer, the first one."""
        if not self.done:
            self.done = True
            if self.fiber is not None:
                self.fiber.wake(self, answer)

    def cancel(self) -> None:
        """The server stops, if it has begun."""
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def run_out(self) -> None:
        """Its deadline: the server is told to stop."""
        self.cancel()
        self.finish(CallLost("deadline exceeded"))


def methods_of(runtime: Runtime) -> dict[str, Any]:
    """What a server does, by rpc name."""
    services = JobService(runtime), ChangeService(runtime), WorkerService(runtime), PayloadService(runtime)
    methods: dict[str, Any] = {name: method for service in services for name, method in service.methods().items()}
    return {**methods, "gate": Gate(runtime.config)}


def _framed(message: Any, data: NDArray[np.uint8]) -> Framed:
    """As it reaches the server."""
    return framed(with_data(message, data), type(message))


def _as_it_is(frame: Any) -> Any:
    return frame


class MembershipSeen:
    """What one worker was told of its membership. One whose lease has ended joins again before it waits on."""

    def __init__(self) -> None:
        self._epoch = 0
        self._is_over = False
        self._waits = 0

    def asks(self, method: str) -> None:
        """A call goes out."""
        if method == "Join":
            self._is_over = False
        waits_on = method == "AwaitOutcome" and self._is_over and self._waits >= WAITS_MAX
        assert not waits_on, (
            f"epoch {self._epoch} waits for an outcome, knows that its lease is over, and does not join"
        )

    def told(self, answer: object) -> None:
        """It is answered."""
        if isinstance(answer, pb.JoinResponse):
            self._epoch = answer.epoch
        if isinstance(answer, pb.AwaitOutcomeResponse):
            self._waits = self._waits + 1 if self._is_over and answer.state == pb.PUSH_STATE_WAITING else 0

    def refused(self, request: object, error: Refused) -> None:
        """It is refused."""
        if isinstance(request, pb.HeartbeatRequest) and request.epoch == self._epoch:
            self._is_over |= error.reason == "LEASE_EXPIRED"


class SimulatedTransport:
    """optimd.transport.Transport over the network, for the fiber that runs. `sent(header, flat)` sees every push.

    forgotten: the Worker that had it is gone: nothing may be sent any more.
    """

    is_local = False
    moving = ""

    def __init__(
        self,
        network: Network,
        loop: SimulatedLoop,
        caller: str,
        chunk_bytes: int,
        sent: Callable[[pb.PushHeader, Float32s], None],
    ) -> None:
        self._network = network
        self._loop = loop
        self._caller = caller
        self._chunk_bytes = chunk_bytes
        self._sent = sent
        self.forgotten = False
        self._membership = MembershipSeen()

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """See Transport."""
        copy = type(request)()
        copy.CopyFrom(request)
        self._membership.asks(method)
        try:
            answer = self._exchange(method, lambda methods: methods[method](copy), timeout_s)
        except Refused as error:
            self._membership.refused(copy, error)
            raise
        self._membership.told(answer)
        return answer

    def upload(self, header: pb.UploadHeader, flat: Float32s, timeout_s: float) -> Any:
        """See Transport."""
        first = pb.UploadParametersRequest(header=header)
        return self._stream("UploadParameters", first, pb.UploadParametersRequest, flat, timeout_s)

    def share_memory(self, request: pb.OpenSharedMemoryRequest, socket: str | None, elements: int) -> SharedMemory:
        """See Transport."""
        raise NotShared("simulated workers are on other machines")

    def open_local(self, offer: pb.LocalCalls) -> None:
        """See Transport; no server offers it here."""
        raise CallLost("the simulated server has no unix socket")

    def push(self, header: pb.PushHeader, payload: Payload, timeout_s: float) -> Any:
        """See Transport."""
        self._sent(header, payload.flat)
        return self._stream("Push", pb.PushRequest(header=header), pb.PushRequest, payload.flat, timeout_s)

    def step(self, header: pb.PushHeader, payload: Payload, timeout_s: float) -> tuple[Any, Float32s | None]:
        """See Transport."""
        flat = payload.flat
        self._sent(header, flat)
        data = flat.copy().view(np.uint8)
        request = _framed(pb.StepRequest(header=header, crc32c=crc32c(data)), data)
        answer = self._exchange("Step", lambda methods: methods["Step"](request), timeout_s)
        response = pb.StepResponse.FromString(answer) if isinstance(answer, bytes) else answer
        return response, np.frombuffer(response.data, np.float32).copy() if response.data else None

    def pull(self, request: pb.PullRequest, flat: Float32s, timeout_s: float) -> tuple[Any, Any]:
        """See Transport."""

        async def collect(methods: dict[str, Any]) -> list[Any]:
            answers = [answer async for answer in methods["Pull"](request)]
            return [pb.PullResponse.FromString(a) if isinstance(a, bytes) else a for a in answers]

        messages = self._exchange("Pull", collect, timeout_s)
        data = b"".join(message.data for message in messages)
        flat[:] = np.frombuffer(data, np.float32)
        return messages[0].header, messages[0].parameters

    def close(self) -> None:
        """See Transport."""

    def _stream(self, method: str, first: Any, frame_class: Any, flat: Float32s, timeout_s: float) -> Any:
        data = flat.copy().view(np.uint8)
        network, size = self._network, self._chunk_bytes

        async def frames() -> AsyncIterator[Any]:
            yield _framed(first, data[:0])
            for start in range(0, data.size, size):
                await asyncio.sleep(STALLED_S if network.happens(network.stalled) else network.way_s())
                chunk = data[start : start + size]
                yield _framed(frame_class(offset_bytes=start, crc32c=crc32c(chunk)), chunk)

        return self._exchange(
            method, lambda methods: methods[method](dispatch._each(_as_it_is, methods["gate"])(frames())), timeout_s
        )

    def _exchange(self, method: str, exchange: Exchange, timeout_s: float) -> Any:
        fiber = self._loop.current
        assert fiber is not None
        assert not self.forgotten, f"{self._caller} sends {method}, its Worker is gone"
        call = Call(self._caller, method, exchange, fiber, self)
        timer = self._loop.call_later(timeout_s, call.run_out)
        self._network.send(call)
        try:
            return fiber.block(call)
        except Interrupted:
            self._network.give_up(call)
            raise
        finally:
            timer.cancel()
