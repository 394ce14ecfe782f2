"""One thread at a time in a worker; an interrupt locks nobody out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import optimd
import pytest
from optimd.claim import Claim
from optimd.surroundings import Machine

from tests.unit.client.conftest import GRADIENT, MakeWorker
from tests.unit.client.fake_server import FakeServer, change


def in_thread(call: Callable[[], Any]) -> list[BaseException]:
    """What it raised in a thread that has ended."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return raised


@pytest.mark.parametrize(
    "call",
    [
        lambda worker: worker.step(GRADIENT),
        lambda worker: worker.push(GRADIENT),
        lambda worker: worker.pull(),
        lambda worker: worker.gradient_buffers(),
    ],
    ids=["step", "push", "pull", "gradient_buffers"],
)
def test_a_second_thread_is_refused_while_one_is_inside(
    server: FakeServer, worker: optimd.Worker, call: Callable[[optimd.Worker], Any]
) -> None:
    """Two at once would use one seq for two gradients, and one connection for two calls."""
    entered, leave = threading.Event(), threading.Event()

    def held(process: Callable[[], Any], _: Any) -> Any:
        entered.set()
        leave.wait(30)
        return process()

    server.plan("Push", held)
    first = threading.Thread(target=worker.push, args=(GRADIENT,))
    first.start()
    assert entered.wait(30)
    (error,) = in_thread(lambda: call(worker))
    assert isinstance(error, RuntimeError)
    assert "one thread at a time" in str(error)
    assert worker.status().state == "ready"  # looking on is for everybody
    leave.set()
    first.join(30)
    assert not in_thread(lambda: call(worker))
    assert next(iter(server.taken)) == (1, 1)


def claim() -> Claim:
    return Claim(Machine())


def test_an_interrupt_that_leaves_it_held_locks_its_own_thread_not_out() -> None:
    held = claim()
    held.__enter__()  # and nothing behind it
    with held:
        pass
    assert not in_thread(held.__enter__)


def test_the_claim_of_a_thread_that_has_ended_is_taken_over() -> None:
    held = claim()
    assert not in_thread(held.__enter__)
    with held:
        (error,) = in_thread(held.__enter__)
        assert isinstance(error, RuntimeError)
    assert not in_thread(held.__enter__)


def test_time_counts_while_nobody_is_inside() -> None:
    now = [100.0]

    class Clock(Machine):
        def now_s(self) -> float:
            return now[0]

    held = Claim(Clock())
    now[0] = 103.0
    assert held.idle_s() == 3.0
    with held:
        now[0] = 110.0
        assert held.idle_s() == 0.0
    now[0] = 112.5
    assert held.idle_s() == 2.5
    assert not in_thread(held.__enter__)
    assert held.idle_s() == 2.5  # who holds it is no more


def test_compute_may_call_the_worker(make_worker: MakeWorker, server: FakeServer) -> None:
    worker = make_worker()
    pulled = []

    def compute(parameters: Any) -> tuple[Any, float, float]:
        pulled.append(worker.pull())
        server.plan("GetRangeTest", change(done=True), change(done=True))
        return GRADIENT, 1.0, 0.5

    worker.range_test(compute)
    assert pulled


def test_a_closed_worker_says_so(worker: optimd.Worker) -> None:
    worker.close()
    for call in (worker.pull, worker.status, worker.snapshot, lambda: worker.step(GRADIENT)):
        with pytest.raises(RuntimeError, match="closed: connect again"):
            call()
    worker.leave()
    worker.close()
