"""What the client makes of lost replies, waiting, ended leases and refusals: each gradient is taken exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from grpc import StatusCode

from tests.unit.client import fake_server
from tests.unit.client.conftest import FLAT_GRADIENT, GRADIENT, MakeWorker
from tests.unit.client.fake_server import FakeServer, fail, gradient_of, held, lose_reply, refuse

OTHER = {"w": np.full((2, 3), 7.0, np.float32), "b": np.full(2, 8.0, np.float32)}
FLAT_OTHER = [7.0] * 6 + [8.0] * 2
LOST = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED, StatusCode.DATA_LOSS)


def taken(server: FakeServer) -> dict[tuple[int, int], list[float]]:
    return {key: gradient_of(payload) for key, payload in server.taken.items()}


def test_a_push_that_nothing_happens_to(server: FakeServer, worker: optimd.Worker) -> None:
    result = worker.push(GRADIENT, weight=3.0, loss=0.5)
    assert (result.status, result.reason, result.global_step, result.learning_rate) == ("applied", None, 1, 0.25)
    assert server.names() == ["Push"]
    header = server.requests("Push")[0].header
    assert (header.epoch, header.seq, header.attempt, header.weight, header.loss) == (1, 1, 1, 3.0, 0.5)
    assert taken(server) == {(1, 1): FLAT_GRADIENT}
    worker.push(OTHER)
    assert taken(server) == {(1, 1): FLAT_GRADIENT, (1, 2): FLAT_OTHER}


@pytest.mark.parametrize("code", LOST, ids=lambda code: code.name)
def test_a_lost_reply_is_asked_for_and_nothing_is_sent_again(
    server: FakeServer, worker: optimd.Worker, code: StatusCode
) -> None:
    server.plan("Push", lose_reply(code))
    assert worker.push(GRADIENT).status == "applied"
    assert server.names() == ["Push", "AwaitOutcome"]
    assert taken(server) == {(1, 1): FLAT_GRADIENT}


def test_a_push_that_was_never_taken_is_sent_again_under_its_seq(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("Push", fail(StatusCode.UNAVAILABLE), fail(StatusCode.UNAVAILABLE))
    assert worker.push(GRADIENT).status == "applied"
    assert server.names() == ["Push", "AwaitOutcome"] * 2 + ["Push"]
    headers = [request.header for request in server.requests("Push")]
    assert [(header.seq, header.attempt) for header in headers] == [(1, 1), (1, 2), (1, 3)]
    assert taken(server) == {(1, 1): FLAT_GRADIENT}


def test_the_question_is_repeated_too(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("Push", lose_reply())
    server.plan("AwaitOutcome", fail(StatusCode.UNAVAILABLE), fail(StatusCode.UNAVAILABLE))
    assert worker.push(GRADIENT).status == "applied"
    assert server.names() == ["Push", "AwaitOutcome", "AwaitOutcome", "AwaitOutcome"]


@pytest.mark.parametrize("method", ["Push", "Step"])
def test_a_waiting_answer_is_waited_for(server: FakeServer, worker: optimd.Worker, method: str) -> None:
    server.plan(method, held())
    server.plan("AwaitOutcome", held(), held())
    result = worker.push(GRADIENT) if method == "Push" else worker.step(GRADIENT)
    assert result.status == "applied"
    assert [name for name in server.names() if name != "Pull"] == [method] + ["AwaitOutcome"] * 3
    assert list(taken(server)) == [(1, 1)]


@pytest.mark.parametrize("reason", ["LEASE_EXPIRED", "NOT_JOINED"])
def test_an_ended_membership_is_renewed_and_the_gradient_sent_under_it(
    server: FakeServer, worker: optimd.Worker, reason: str
) -> None:
    server.plan("Push", refuse(reason))
    assert worker.push(GRADIENT).status == "applied"
    assert server.names() == ["Push", "AwaitOutcome", "Join", "Push"]
    assert taken(server) == {(2, 1): FLAT_GRADIENT}
    worker.push(OTHER)
    assert list(taken(server)) == [(2, 1), (2, 2)]


def test_what_an_ended_membership_committed_counts(server: FakeServer, worker: optimd.Worker) -> None:
    """Bytes of an attempt thought lost arrive late and are taken before the lease ends."""

    def take_then_refuse(process: Callable[[], Any], context: grpc.ServicerContext) -> Any:
        process()
        return refuse("LEASE_EXPIRED")(process, context)

    server.plan("Push", take_then_refuse)
    assert worker.push(GRADIENT).status == "applied"
    assert server.names() == ["Push", "AwaitOutcome"]
    assert taken(server) == {(1, 1): FLAT_GRADIENT}


def test_a_superseded_worker_stops_for_good(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("Push", refuse("EPOCH_SUPERSEDED"))
    for _ in range(2):
        with pytest.raises(optimd.EpochSuperseded):
            worker.push(GRADIENT)
    with pytest.raises(optimd.EpochSuperseded):
        worker.step(GRADIENT)
    assert server.names() == ["Push"]
    assert not server.taken


def test_a_refused_push_uses_no_seq(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("Push", refuse("INVALID_PUSH"))
    with pytest.raises(optimd.Refused) as caught:
        worker.push(GRADIENT)
    assert caught.value.reason == "INVALID_PUSH"
    worker.push(OTHER)
    assert taken(server) == {(1, 1): FLAT_OTHER}


def test_a_full_server_is_tried_again_after_its_delay(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("Push", refuse("BACKLOG_FULL", retry_delay_ms=20), refuse("BACKLOG_FULL", retry_delay_ms=20))
    assert worker.push(GRADIENT).status == "applied"
    assert server.names() == ["Push"] * 3
    assert [request.header.attempt for request in server.requests("Push")] == [1, 1, 1]


def test_patience_over_before_anything_was_taken_is_no_unknown_outcome(
    server: FakeServer, make_worker: MakeWorker
) -> None:
    worker = make_worker(timeout_s=0.1)
    server.plan("Push", *[refuse("BACKLOG_FULL", retry_delay_ms=50)] * 20)
    with pytest.raises(optimd.ServerUnavailable):
        worker.push(GRADIENT)
    assert not server.taken


def unknown_outcome(server: FakeServer, worker: optimd.Worker, *, was_taken: bool) -> None:
    server.plan("Push", lose_reply() if was_taken else fail(StatusCode.UNAVAILABLE))
    server.plan("AwaitOutcome", *[fail(StatusCode.UNAVAILABLE)] * 50)
    with pytest.raises(optimd.OutcomeUnknown, match="seq 1 of epoch 1"):
        worker.push(GRADIENT)
    server.forget_plans()
    server.calls.clear()


def test_an_unknown_outcome_that_counted(server: FakeServer, make_worker: MakeWorker) -> None:
    worker = make_worker(timeout_s=0.2)
    unknown_outcome(server, worker, was_taken=True)
    worker.push(OTHER)
    assert server.names() == ["AwaitOutcome", "Push"]
    assert taken(server) == {(1, 1): FLAT_GRADIENT, (1, 2): FLAT_OTHER}


def test_an_unknown_outcome_that_did_not_count_is_fenced(server: FakeServer, make_worker: MakeWorker) -> None:
    """Bytes of the push that was given up may arrive yet: under the old epoch they can do no harm."""
    worker = make_worker(timeout_s=0.2)
    unknown_outcome(server, worker, was_taken=False)
    worker.push(OTHER)
    assert server.names() == ["AwaitOutcome", "Join", "Push"]
    assert taken(server) == {(2, 1): FLAT_OTHER}


def test_joining_again_and_full_servers_wear_out_no_buffer(server: FakeServer, worker: optimd.Worker) -> None:
    """The gradient moves to the buffers of the new epoch once, however often it is sent from there."""
    server.plan("Push", refuse("LEASE_EXPIRED"), *[refuse("BACKLOG_FULL", 10) for _ in range(5)])
    assert worker.push(GRADIENT).status == "applied"
    assert taken(server) == {(2, 1): FLAT_GRADIENT}


def test_an_interrupted_push_is_settled_by_the_next(server: FakeServer, worker: optimd.Worker) -> None:
    transport = worker._session.transport
    push = transport.push

    def push_and_interrupt(*arguments: object) -> None:
        push(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    transport.push = push_and_interrupt  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        worker.push(GRADIENT)
    transport.push = push  # type: ignore[method-assign]
    worker.push(OTHER)
    assert taken(server) == {(1, 1): FLAT_GRADIENT, (1, 2): FLAT_OTHER}


def test_a_small_model_steps_in_one_call(server: FakeServer, worker: optimd.Worker) -> None:
    result = worker.step(GRADIENT)
    assert server.names() == ["Step"]
    assert {name: array.shape for name, array in result.parameters.items()} == {"w": (2, 3), "b": (2,)}
    assert server.requests("Step")[0].header.base_version.step == 0
    worker.step(GRADIENT)
    assert server.requests("Step")[1].header.base_version.step == 1


def test_a_step_whose_reply_is_lost_pulls(server: FakeServer, worker: optimd.Worker) -> None:
    server.plan("Step", lose_reply())
    assert worker.step(GRADIENT).status == "applied"
    assert server.names() == ["Step", "AwaitOutcome", "Pull"]
    assert taken(server) == {(1, 1): FLAT_GRADIENT}


def test_a_large_model_pushes_in_chunks_and_pulls(server: FakeServer, make_worker: MakeWorker) -> None:
    start = {"w": np.zeros(700_000, np.float32)}
    worker = make_worker(start=start)
    gradient = {"w": np.arange(700_000, dtype=np.float32)}
    result = worker.step(gradient)
    assert server.names() == ["Push", "Pull"]
    assert server.taken[1, 1] == gradient["w"].tobytes()
    assert result.parameters["w"].flags.writeable


def test_while_a_push_waits_an_ended_lease_is_renewed_by_joining_again(
    server: FakeServer, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its round may wait for one more live worker; the old push is asked for until it has its outcome."""
    monkeypatch.setattr(fake_server, "LEASE_MS", 90)
    worker = make_worker()
    server.plan("Heartbeat", refuse("LEASE_EXPIRED"))
    server.plan("Push", held())

    def waits_for_a_member(process: Callable[[], Any], context: grpc.ServicerContext) -> Any:
        if "Join" not in server.names():
            time.sleep(0.01)
            server.plan("AwaitOutcome", waits_for_a_member)
            return held()(process, context)
        return process()

    server.plan("AwaitOutcome", waits_for_a_member)
    assert worker.push(GRADIENT).status == "applied"
    names = server.names()
    assert (names[0], names.count("Push"), names.count("Join"), names[-1]) == ("Push", 1, 1, "AwaitOutcome")
    assert {request.epoch for request in server.requests("AwaitOutcome")} == {1}
    worker.push(OTHER)
    assert taken(server) == {(1, 1): FLAT_GRADIENT, (2, 1): FLAT_OTHER}
