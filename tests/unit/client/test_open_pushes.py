"""Failures that leave a push open, and those that must come to an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from grpc import StatusCode
from optimd.delivery import Delivery
from optimd.patience import Patience
from optimd.surroundings import Machine
from optimd.transport import CallBroken, CallLost
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from tests.unit.client.conftest import FLAT_GRADIENT, GRADIENT, START, MakeWorker
from tests.unit.client.fake_server import FakeServer, fail, gradient_of, lose_reply, refuse

OTHER = {name: array + 7 for name, array in GRADIENT.items()}
FLAT_OTHER = [value + 7 for value in FLAT_GRADIENT]
# What no server of optimd sends for a refusal: proxies, gRPC itself.
OPEN = (
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.ABORTED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.PERMISSION_DENIED,
)


def taken(server: FakeServer) -> dict[tuple[int, int], list[float]]:
    return {key: gradient_of(payload) for key, payload in server.taken.items()}


def take_then(fault: Any) -> Callable[[Callable[[], Any], grpc.ServicerContext], Any]:
    """The call is carried out, and answered so."""

    def run(process: Callable[[], Any], context: grpc.ServicerContext) -> Any:
        process()
        return fault(process, context)

    return run


@pytest.mark.parametrize("method", ["push", "step"])
@pytest.mark.parametrize("code", OPEN, ids=lambda code: code.name)
def test_behind_a_status_without_a_reason_the_server_is_asked(
    server: FakeServer, worker: optimd.Worker, code: StatusCode, method: str
) -> None:
    """The push was taken: its seq is used up, and the next gradient has the next one."""
    server.plan(method.capitalize(), lose_reply(code))
    assert getattr(worker, method)(GRADIENT).status == "applied"
    worker.push(OTHER)
    assert taken(server) == {(1, 1): FLAT_GRADIENT, (1, 2): FLAT_OTHER}


@pytest.mark.parametrize("reason", ["INTERNAL", "PUSH_SUPERSEDED"])
@pytest.mark.parametrize("was_taken", [True, False], ids=["taken", "not taken"])
def test_two_reasons_leave_a_push_open(server: FakeServer, worker: optimd.Worker, reason: str, was_taken: bool) -> None:
    server.plan("Push", take_then(refuse(reason)) if was_taken else refuse(reason))
    assert worker.push(GRADIENT).status == "applied"
    worker.push(OTHER)
    assert server.names() == ["Push", "AwaitOutcome", *([] if was_taken else ["Push"]), "Push"]
    assert taken(server) == {(1, 1): FLAT_GRADIENT, (1, 2): FLAT_OTHER}


def test_a_server_that_fails_at_every_push_is_given_up_in_its_words(
    server: FakeServer, make_worker: MakeWorker
) -> None:
    worker = make_worker(timeout_s=0.3)
    server.plan("Push", *[refuse("INTERNAL")] * 100)
    with pytest.raises(optimd.OutcomeUnknown, match="may or may not count: made up by the test"):
        worker.push(GRADIENT)
    assert 2 < len(server.requests("Push")) < 30
    server.forget_plans()
    assert worker.push(OTHER).status == "applied"
    assert list(taken(server).values()) == [FLAT_OTHER]


def test_other_calls_that_a_server_fails_at_are_refused_after_some_tries(
    server: FakeServer, worker: optimd.Worker
) -> None:
    server.plan("GetJob", *[fail(StatusCode.UNKNOWN)] * 2)
    assert worker.status().state == "ready"
    server.plan("GetJob", *[refuse("INTERNAL")] * 3)
    with pytest.raises(optimd.Refused, match="made up by the test") as caught:
        worker.status()
    assert caught.value.reason == "INTERNAL"
    assert worker.status().state == "ready"


def test_a_refusal_behind_a_lost_attempt_does_not_free_the_seq(server: FakeServer, worker: optimd.Worker) -> None:
    """Bytes of the attempt that was lost may come yet."""
    server.plan("Push", fail(StatusCode.UNAVAILABLE), refuse("INVALID_PUSH"))
    with pytest.raises(optimd.Refused):
        worker.push(GRADIENT)
    worker.push(OTHER)
    assert server.names() == ["Push", "AwaitOutcome", "Push", "AwaitOutcome", "Join", "Push"]
    assert taken(server) == {(2, 1): FLAT_OTHER}


def test_an_outcome_that_is_forgotten_stops_nobody(server: FakeServer, make_worker: MakeWorker) -> None:
    worker = make_worker(timeout_s=0.2)
    server.plan("Push", fail(StatusCode.UNAVAILABLE))
    server.plan("AwaitOutcome", *[fail(StatusCode.UNAVAILABLE)] * 50)
    with pytest.raises(optimd.OutcomeUnknown):
        worker.push(GRADIENT)
    server.forget_plans()
    server.plan("AwaitOutcome", refuse("SEQ_FORGOTTEN"))
    assert worker.push(OTHER).status == "applied"
    assert taken(server) == {(2, 1): FLAT_OTHER}


def test_a_buffer_whose_push_is_open_is_not_handed_out(server: FakeServer, make_worker: MakeWorker) -> None:
    worker = make_worker(timeout_s=0.2)
    pushed = worker.gradient_buffers()
    pushed["w"][:], pushed["b"][:] = 0.5, 1.0
    server.plan("Push", *[fail(StatusCode.UNAVAILABLE)] * 50)
    server.plan("AwaitOutcome", *[fail(StatusCode.UNAVAILABLE)] * 50)
    with pytest.raises(optimd.OutcomeUnknown):
        worker.push(pushed)
    other = worker.gradient_buffers()
    assert not any(other[name] is pushed[name] for name in other)
    server.forget_plans()
    worker.push(GRADIENT)
    assert any(worker.gradient_buffers()[name] is pushed[name] for name in other)


class Clock(Machine):
    """Simulated."""

    time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds


class Members:
    """Joins as often as one likes."""

    expired = False
    epoch = 1

    def join(self) -> int:
        self.epoch += 1
        return self.epoch


class Asked:
    """A transport that is only asked, and answers so."""

    def __init__(self, state: pb.PushState = pb.PUSH_STATE_UNKNOWN) -> None:
        self.state = state
        self.times = 0

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        assert method == "AwaitOutcome"
        self.times += 1
        return pb.AwaitOutcomeResponse(state=self.state)


def delivery(clock: Clock, asked: Asked) -> Delivery:
    patience = Patience(60.0, clock)
    return Delivery(asked, pb.PushHeader(epoch=1, seq=5), None, 20.0, patience, Members())  # type: ignore[arg-type]


def lost(*, moved: bool) -> CallLost:
    error = CallLost("made up")
    error.moved = moved
    return error


@pytest.mark.parametrize("sending_s", [0.0, 110.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda: lost(moved=False),
        lambda: lost(moved=True),
        lambda: CallBroken(Refused("INTERNAL", "made up")),
        lambda: Refused("PUSH_SUPERSEDED", "made up"),
        lambda: Refused("LEASE_EXPIRED", "made up"),
    ],
    ids=["lost", "lost on the way", "broken", "superseded", "expired"],
)
def test_what_fails_each_time_comes_to_an_end(make: Callable[[], Exception], sending_s: float) -> None:
    """Each time the server says that it took nothing: that alone is no progress."""
    clock = Clock()
    attempts: list[float] = []

    def send(_: Delivery) -> Any:
        clock.time_s += sending_s
        attempts.append(clock.time_s)
        raise make()

    with pytest.raises((optimd.OutcomeUnknown, optimd.ServerUnavailable), match="made up"):
        delivery(clock, Asked()).run(send)
    assert len(attempts) >= 2
    assert attempts[-1] - attempts[0] <= 60.0 + 3 * (sending_s + 60.0)


def test_a_lost_reply_of_a_long_sending_is_asked_for() -> None:
    """It took longer than the user's patience all by itself."""
    clock = Clock()

    def send(_: Delivery) -> Any:
        clock.time_s += 300.0
        raise lost(moved=True)

    answer, _ = delivery(clock, Asked(pb.PUSH_STATE_DONE)).run(send)
    assert answer.state == pb.PUSH_STATE_DONE


def test_waiting_in_a_round_takes_no_patience() -> None:
    clock, asked = Clock(), Asked(pb.PUSH_STATE_WAITING)

    def call(method: str, request: Any, timeout_s: float) -> Any:
        clock.time_s += 20.0
        asked.times += 1
        done = asked.times > 100
        return pb.AwaitOutcomeResponse(state=pb.PUSH_STATE_DONE if done else pb.PUSH_STATE_WAITING)

    asked.call = call  # type: ignore[method-assign]
    answer, _ = delivery(clock, asked).run(lambda _: (pb.PushResponse(state=pb.PUSH_STATE_WAITING), None))
    assert answer.state == pb.PUSH_STATE_DONE
    assert clock.time_s > 1000.0


def test_a_step_whose_pull_fails_does_not_say_that_the_push_does_not_count(
    server: FakeServer, make_worker: MakeWorker
) -> None:
    worker = make_worker(timeout_s=0.2, start={name: np.tile(array, 200_000) for name, array in START.items()})
    gradient = {name: np.tile(array, 200_000) for name, array in GRADIENT.items()}
    server.plan("Pull", *[fail(StatusCode.UNAVAILABLE)] * 20)
    with pytest.raises(
        optimd.OutcomeUnknown, match="the push is applied, and the parameters after it cannot be pulled"
    ):
        worker.step(gradient)
    assert len(server.taken) == 1
    server.forget_plans()
    worker.pull()
    assert worker.step(gradient).status == "applied"
    assert len(server.taken) == 2
