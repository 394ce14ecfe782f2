"""What a worker checks before it sends anything, and who may do what."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import optimd
import pytest

from tests.unit.client.conftest import GRADIENT, START
from tests.unit.client.fake_server import FakeServer

F32 = np.float32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: g.pop("b"), "missing 'b'"),
        (lambda g: g.update(extra=np.zeros(1, F32)), "unknown 'extra'"),
        (lambda g: g.update(B=g.pop("b")), "missing 'b'; unknown 'B'"),
        (lambda g: g.update(b=np.zeros(3, F32)), "gradient 'b': expected shape (2,), got (3,)"),
        (lambda g: g.update(w=g["w"].T), "gradient 'w': expected shape (2, 3), got (3, 2)"),
        (lambda g: g.update(b=np.zeros(2)), "gradient 'b': expected dtype float32, got float64"),
        (lambda g: g.update(b=[0.0, 0.0]), "gradient 'b': expected a numpy array, got list"),
        (lambda g: g.update(b=np.zeros(2, ">f4")), "gradient 'b': expected dtype float32, got >f4"),
    ],
)
@pytest.mark.parametrize("method", ["push", "step"])
def test_a_gradient_that_does_not_fit_is_refused_before_anything_is_sent(
    server: FakeServer, worker: optimd.Worker, change: Callable[[dict[str, object]], object], says: str, method: str
) -> None:
    gradients: dict[str, object] = dict(GRADIENT)
    change(gradients)
    with pytest.raises(optimd.InvalidGradient) as caught:
        getattr(worker, method)(gradients)
    assert says in str(caught.value)
    assert server.names() == []


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({}, "expected at least one tensor"),
        ({"w": np.zeros(2)}, "tensor 'w': expected dtype float32, got float64"),
        ({"w": np.zeros(2, np.int32)}, "tensor 'w': expected dtype float32, got int32"),
        ({"w": [1.0]}, "tensor 'w': expected a numpy array, got list"),
        ({"": np.zeros(2, F32)}, "tensor name ''"),
    ],
)
def test_parameters_that_are_no_layout_are_refused_before_anything_is_sent(
    server: FakeServer, parameters: dict[str, object], says: str
) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        with pytest.raises(optimd.InvalidLayout) as caught:
            worker.ensure_job(parameters, optimd.SGD(0.1), optimd.Sync(1))  # type: ignore[arg-type]
        assert says in str(caught.value)
    assert server.names() == []


def test_other_floats_are_cast_when_asked(server: FakeServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        start = {"w": np.arange(4, dtype=np.float16)}
        worker.ensure_job(start, optimd.SGD(0.1), optimd.Sync(1), cast_to_float32=True)
        pulled = worker.pull()["w"]
    assert pulled.dtype == np.float32
    assert pulled.tolist() == [0, 1, 2, 3]


def test_strided_arrays_arrive_in_c_order(server: FakeServer) -> None:
    start = {"w": np.asfortranarray(np.arange(6, dtype=F32).reshape(2, 3)), "b": np.arange(8, dtype=F32)[::2]}
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(start, optimd.SGD(0.1), optimd.Sync(1))
        worker.pull()
        worker.push({name: array.copy(order="K") for name, array in start.items()})
    assert server.taken[1, 1] == np.array([0, 1, 2, 3, 4, 5, 0, 2, 4, 6], F32).tobytes()


def test_pulled_parameters_belong_to_the_caller(worker: optimd.Worker) -> None:
    first = worker.pull()
    first["w"][:] = -1
    assert worker.pull()["w"].tolist() == START["w"].tolist()


def test_a_push_needs_parameters_it_was_taken_at(server: FakeServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
    with optimd.connect(server.address, job="j", worker="w1") as worker:
        worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
        with pytest.raises(ValueError, match="expected parameters to be pulled"):
            worker.push(GRADIENT)


def test_an_observer_pulls_and_never_joins(server: FakeServer, worker: optimd.Worker) -> None:
    with optimd.connect(server.address, job="j", observer=True) as observer:
        assert observer.pull()["w"].shape == (2, 3)
        assert observer.status().state == "ready"
        with pytest.raises(ValueError, match="observers only pull"):
            observer.push(GRADIENT)
    assert "Join" not in server.names()


@pytest.mark.parametrize("arguments", [{}, {"worker": "w0", "observer": True}])
def test_connect_wants_a_worker_or_an_observer(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="either a worker name or observer=True"):
        optimd.connect("127.0.0.1:1", job="j", **arguments)  # type: ignore[arg-type]


def test_leaving_says_so_once_and_stops_the_lease(server: FakeServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job(START, optimd.SGD(0.1), optimd.Sync(1))
        (keeper,) = (thread for thread in threading.enumerate() if thread.name == "optimd-lease-w0")
        worker.leave()
        worker.leave()
    assert server.names().count("Leave") == 1
    keeper.join(30)
    assert not keeper.is_alive()


def test_a_server_that_is_not_there_is_named_in_the_time_given() -> None:
    with (
        optimd.connect("127.0.0.1:1", job="j", observer=True, timeout_s=0.3) as observer,
        pytest.raises(optimd.ServerUnavailable, match="cannot be reached"),
    ):
        observer.pull()


FORK = """
import os, sys, optimd
worker = optimd.connect(sys.argv[1], job="j", observer=True)
if sys.argv[2] == "used before":
    worker.status()
child = os.fork()
if child == 0:
    try:
        print(worker.status().state, flush=True)
    except optimd.ForkedWorker as error:
        print("ForkedWorker", flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", worker.status().state)
"""


@pytest.mark.parametrize(
    ("when", "child"), [("used before", "ForkedWorker"), ("not used before", "ready")], ids=lambda value: value
)
def test_a_connection_never_crosses_a_fork(server: FakeServer, worker: optimd.Worker, when: str, child: str) -> None:
    command = [sys.executable, "-c", FORK, server.address, when]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.split("\n")[:2] == [child, "parent ready"], run.stderr


def test_parameters_that_an_interrupt_kept_from_the_caller_are_no_base(
    server: FakeServer, worker: optimd.Worker
) -> None:
    """At whatever line it comes behind the answer: the next gradient is of the parameters before, or has no base."""
    client, transport = str(Path(optimd.__file__).parent), worker._session.transport
    step = transport.step

    def interrupted_step(lines: int) -> bool:
        """Whether it was interrupted, so many lines behind the answer."""

        def count(frame: FrameType, event: str, argument: object) -> object:
            nonlocal lines
            lines -= event == "line"
            if lines < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            return count

        def enter(frame: FrameType, event: str, argument: object) -> object:
            return count if frame.f_code.co_filename.startswith(client) else None

        def answered(*arguments: object) -> object:
            answer = step(*arguments)  # type: ignore[arg-type]
            frame: FrameType | None = sys._getframe(1)
            while frame is not None:
                frame.f_trace = count if frame.f_code.co_filename.startswith(client) else None  # type: ignore[assignment]
                frame = frame.f_back
            sys.settrace(enter)  # type: ignore[arg-type]
            return answer

        transport.step = answered  # type: ignore[method-assign,assignment]
        try:
            worker.step(GRADIENT)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
            transport.step = step  # type: ignore[method-assign]
        return False

    lines = 0
    worker.pull()
    had = server.step
    while interrupted_step(lines):
        server.calls.clear()
        try:
            worker.step(GRADIENT)
        except ValueError:
            assert server.names() == []
        else:
            assert server.requests("Step")[0].header.base_version.step == had
        worker.pull()
        had = server.step
        lines += 1
    assert lines > 10
