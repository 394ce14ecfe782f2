"""Transfers may take as long as they move; what stands still is cut off and tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import optimd
import pytest
from optimd import session
from optimd.transport import CallLost, grpc, moving

from tests.e2e.scene import eventually
from tests.unit.client import fake_server
from tests.unit.client.conftest import MakeWorker
from tests.unit.client.fake_server import FakeServer

# Six chunks of 1 MiB and a bit.
ELEMENTS = 1_600_000
STALL_S = 0.4
LAG_S = 0.15


@pytest.fixture
def worker(server: FakeServer, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> optimd.Worker:
    worker = make_worker(timeout_s=0.5, start={"w": np.arange(ELEMENTS, dtype=np.float32)})
    for module in (moving, grpc):
        monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(moving, "LINK_BYTES_PER_S_MIN", 5e6)
    monkeypatch.setattr(session, "WAIT_MARGIN_S", STALL_S)
    worker._session.wait_s = 0.0
    return worker


def gradient() -> dict[str, np.ndarray]:
    return {"w": np.ones(ELEMENTS, np.float32)}


def slow_read(server: FakeServer) -> None:
    """The server takes a chunk now and then."""
    read = server._read

    def lagging(messages: Iterator[Any]) -> bytes:
        def each() -> Iterator[Any]:
            for message in messages:
                time.sleep(LAG_S)
                yield message

        return read(each())

    server._read = lagging  # type: ignore[method-assign]


def test_a_slow_push_gets_through(server: FakeServer, worker: optimd.Worker) -> None:
    slow_read(server)
    started_s = time.monotonic()
    assert worker.push(gradient()).status == "applied"
    assert time.monotonic() - started_s > 2 * STALL_S
    assert server.names() == ["Push"]


def test_a_slow_pull_gets_through(server: FakeServer, worker: optimd.Worker) -> None:
    pull = server._Pull

    def lagging(*arguments: Any) -> Iterator[Any]:
        for message in pull(*arguments):
            time.sleep(LAG_S)
            yield message

    server._Pull = lagging  # type: ignore[method-assign]
    assert worker.pull()["w"][-1] == ELEMENTS - 1
    assert server.names() == ["Pull"]
    eventually(lambda: "optimd-transfer" not in {thread.name for thread in threading.enumerate()}, "its thread's end")


def test_a_push_that_stands_still_is_cut_off_and_sent_again(server: FakeServer, worker: optimd.Worker) -> None:
    over = threading.Event()
    server.plan("Push", lambda *_: over.wait(30))
    assert worker.push(gradient()).status == "applied"
    assert server.names() == ["Push", "AwaitOutcome", "Push"]
    over.set()


def test_a_pull_that_stands_still_is_cut_off_and_made_again(server: FakeServer, worker: optimd.Worker) -> None:
    over = threading.Event()
    pull = server._Pull

    def stuck(*arguments: Any) -> Iterator[Any]:
        server._Pull = pull  # type: ignore[method-assign]
        messages = pull(*arguments)
        yield next(messages)
        yield next(messages)
        over.wait(30)

    server._Pull = stuck  # type: ignore[method-assign]
    assert worker.pull()["w"][-1] == ELEMENTS - 1
    assert server.names() == ["Pull", "Pull"]
    over.set()


def test_what_stands_still_each_time_comes_to_an_end(server: FakeServer, worker: optimd.Worker) -> None:
    over = threading.Event()
    server.plan("Push", *[lambda *_: over.wait(30)] * 6)
    with pytest.raises(optimd.OutcomeUnknown, match=r"stands still for more than 0.4 s"):
        worker.push(gradient())
    over.set()


def test_a_closed_transport_makes_no_channel_anew(server: FakeServer) -> None:
    """A heartbeat may be on its way while it is closed: nobody would close what that opens."""
    from optimdpb.v1 import optimd_pb2 as pb

    transport = grpc.GrpcTransport(server.address)
    transport.call("GetServerInfo", pb.GetServerInfoRequest(), 5.0)
    transport.close()
    with pytest.raises(CallLost, match="closed"):
        transport.call("Heartbeat", pb.HeartbeatRequest(job="j", worker="w0", epoch=1), 5.0)
    assert transport._link is None


def test_a_channel_on_which_a_call_was_cut_off_is_not_used_again(
    server: FakeServer, worker: optimd.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport: Any = worker._session.transport
    link = transport._link

    def cut(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(link._methods, "GetJob", cut)
    with pytest.raises(KeyboardInterrupt):
        worker.status()
    assert worker.status().state == "ready"
    assert transport._link is not link
    assert worker.push(gradient()).status == "applied"


def test_heartbeats_go_on_though_their_thread_never_comes_back(
    server: FakeServer, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC holds it for ever: another thread was cut off with its lock."""
    monkeypatch.setattr(fake_server, "LEASE_MS", 90)
    worker = make_worker()
    transport: Any = worker._session.transport
    stuck, over = threading.Event(), threading.Event()

    def hold(*_: Any, **__: Any) -> Any:
        stuck.set()
        over.wait(30)
        raise CallLost("at last")

    def cut(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(transport._link._methods, "Heartbeat", hold)
    assert stuck.wait(10)
    monkeypatch.setitem(transport._link._methods, "GetJob", cut)
    with pytest.raises(KeyboardInterrupt):
        worker.status()
    server.calls.clear()
    worker.status()
    eventually(lambda: len(server.requests("Heartbeat")) > 2, "heartbeats")
    over.set()
    eventually(lambda: len([t for t in threading.enumerate() if t.name == "optimd-lease-w0"]) == 1, "one thread")


@pytest.mark.parametrize("make_lock", [threading.Lock, threading.RLock])
def test_an_interrupt_in_a_wait_of_grpc_comes_out_as_what_it_was(
    server: FakeServer, worker: optimd.Worker, monkeypatch: pytest.MonkeyPatch, make_lock: Any
) -> None:
    """Python complains about a lock that the interrupt kept it from getting back."""

    def cut(*_: Any, **__: Any) -> Any:
        try:
            raise KeyboardInterrupt
        finally:
            make_lock().release()

    transport: Any = worker._session.transport
    monkeypatch.setitem(transport._link._methods, "GetJob", cut)
    with pytest.raises(KeyboardInterrupt):
        worker.status()
