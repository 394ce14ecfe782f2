"""Steps over the server's unix socket: chosen by themselves, answered as over gRPC, given up without a trace."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd.transport import CallLost
from optimd.transport import local as client_local
from optimd.transport.local import LocalConnection
from optimd.transport.shared import connect
from optimd_server.runtime import ServerConfig
from optimd_server.service import local as server_local

from tests.e2e.local import ELEMENTS, LEASE_S, framed, gradient, is_local, joined, offer_of, raw, step_request
from tests.e2e.scene import eventually
from tests.support.servers import ServerProcess, ThreadServer


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05, wait_s_max=5.0)) as running:
        yield running


def calls_in_hand(server: ThreadServer) -> int:
    """Also those of connections that are gone."""
    return server.on_loop(lambda: sum("_Connection._answer" in repr(task.get_coro()) for task in asyncio.all_tasks()))


def test_it_is_chosen_by_itself_and_status_says_so(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        assert is_local(worker)
        assert worker.step(gradient()).parameters["w"].tolist() == [-1.0] * ELEMENTS
        eventually(lambda: worker.status().workers[0].transport == "unix_socket", "a heartbeat")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("another job", {"job": "k"}, "UNKNOWN_JOB"),
    ("another worker", {"worker": "w9"}, "NOT_JOINED"),
    ("a gap", {"seq": 7}, "SEQ_GAP"),
    ("another layout", {"layout_digest": b"x" * 32}, "LAYOUT_MISMATCH"),
    ("a payload of another size", {"payload_bytes": 4}, "PAYLOAD_SIZE_MISMATCH"),
    ("a weight of nothing", {"weight": 0.0}, "INVALID_PUSH"),
    ("shared memory that is none", {"shared_buffer": 1}, "SHARED_MEMORY_GONE"),
    ("an unknown encoding", {"encoding": 99}, "UNSUPPORTED_ENCODING"),
]


@pytest.mark.parametrize(("fields", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals_are_those_of_grpc(server: ThreadServer, fields: dict[str, Any], reason: str) -> None:
    with joined(server.address) as worker:
        request, before = step_request(worker, **fields), server.state_hash("j")
        with pytest.raises(optimd.Refused) as local:
            LocalConnection(offer_of(worker)).call("Step", request, 5.0)
        transport: Any = worker._session.transport
        with pytest.raises(optimd.Refused) as remote:
            transport._attempt(lambda link: link.method("Step")(request, timeout=5.0))
        assert local.value.reason == remote.value.reason == reason
        assert type(local.value) is type(remote.value)
        assert (str(local.value), local.value.metadata) == (str(remote.value), remote.value.metadata)
        assert server.state_hash("j") == before


def test_damaged_data_is_sent_again(server: ThreadServer) -> None:
    with joined(server.address) as worker, pytest.raises(CallLost, match="DATA_LOSS"):
        LocalConnection(offer_of(worker)).call("Step", step_request(worker, crc32c=1), 5.0)


def test_beyond_the_most_connections_workers_go_by_grpc(server: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_local, "CONNECTIONS_MAX", 1)
    with joined(server.address) as first, joined(server.address, "w1") as second:
        assert [is_local(first), is_local(second)] == [True, False]
        eventually(lambda: second.status().workers[1].transport == "grpc", "a heartbeat")


def test_a_worker_that_joins_is_no_stranger(server: ThreadServer, caplog: pytest.LogCaptureFixture) -> None:
    """It looks whether it can reach the socket before it asks for memory."""
    with optimd.connect(server.address, job="large", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(20_000, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        assert worker._membership.memory is not None
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_who_goes_away_in_mid_call_leaves_none_in_hand(server: ThreadServer) -> None:
    """What it had committed counts all the same, once."""
    with joined(server.address, "w0", 2) as first, joined(server.address, "w1", 2) as second:
        with raw(first) as connection:
            assert connection.recv(1) == b"\0"
            connection.sendall(framed("Step", step_request(first)))
            eventually(lambda: calls_in_hand(server) == 1, "the call to arrive")
            eventually(lambda: server.last_seq("j", "w0", first._membership.epoch) == 1, "the push to be taken")
        eventually(lambda: calls_in_hand(server) == 0, "the call to be over", 2.0)
        assert second.step(gradient(4.0)).parameters["w"][0] == -1.5
        assert second.status().applied == 2


def test_a_deadline_ends_the_connection_and_the_next_step_opens_another(
    server: ThreadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joined(server.address, "w0", 2, timeout_s=30.0) as first, joined(server.address, "w1", 2) as second:
        before: Any = first._session.transport
        connection = before._local
        monkeypatch.setattr("optimd.session.WAIT_MARGIN_S", -4.8)
        thread, results = in_thread(lambda: first.step(gradient()))
        eventually(lambda: connection.closed, "the deadline")
        second.step(gradient(4.0))
        thread.join(30)
        monkeypatch.undo()
        assert (results[0].status, results[0].global_step) == ("applied", 1)
        assert not is_local(first)
        thread, results = in_thread(lambda: first.step(gradient()))
        second.step(gradient(4.0))
        thread.join(30)
        assert is_local(first)
        assert results[0].parameters["w"][0] == -3.0


def test_an_interrupt_in_mid_call_then_the_next_step(server: ThreadServer) -> None:
    """The answer that is still to come is not taken for that of the next call."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with joined(server.address, "w0", 2) as first, joined(server.address, "w1", 2) as second:
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                first.step(gradient())
        finally:
            signal.signal(signal.SIGALRM, before)
        assert not is_local(first)
        assert second.step(gradient(4.0)).global_step == 1
        thread, results = in_thread(lambda: second.step(gradient(4.0)))
        assert first.step(gradient()).status == "discarded", "taken at parameters of before the round that it was in"
        assert first.step(gradient()).global_step == 2
        thread.join(30)
        assert is_local(first)
        assert results[0].parameters["w"][0] == -3.0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_comes_back_is_called_on_its_new_socket(sign: int, tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path), "--lease-s", "1")
    server = ServerProcess(*arguments)
    port = int(server.address.rpartition(":")[2])
    worker = joined(server.address)
    worker.step(gradient())
    worker.snapshot()
    token = offer_of(worker).token
    server.process.send_signal(sign)
    server.process.wait(60)
    server = ServerProcess(*arguments, port=port)
    try:
        # After a kill the job goes on from the snapshot, under another lineage.
        assert worker.step(gradient()).status == ("applied" if sign == signal.SIGTERM else "discarded")
        eventually(lambda: offer_of(worker).token != token, "a heartbeat")
        assert worker.step(gradient()).parameters["w"][0] == (-3.0 if sign == signal.SIGTERM else -2.0)
        assert is_local(worker)
        worker.leave()
        worker.close()
    finally:
        server.stop()


def _step_in_child(worker: optimd.Worker, results: Any) -> None:
    try:
        worker.step(gradient())
    except BaseException as error:
        results.put(type(error).__name__)


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_a_forked_child_is_told_so_and_the_parent_goes_on(server: ThreadServer, is_open: bool) -> None:
    """Also if the connection was broken at the fork: the child would push in the parent's name."""
    with joined(server.address) as worker:
        if not is_open:
            transport: Any = worker._session.transport
            transport._local.close()
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_step_in_child, args=(worker, results))
        child.start()
        assert results.get(timeout=30) == "ForkedWorker"
        child.join(30)
        assert worker.step(gradient()).global_step == 1
        assert is_local(worker)


def _stay(over: Any) -> None:
    over.wait(60)


def test_a_call_given_up_ends_though_a_child_has_its_descriptor(server: ThreadServer) -> None:
    with joined(server.address, "w0", 2) as worker:
        context = multiprocessing.get_context("fork")
        over = context.Event()
        child = context.Process(target=_stay, args=(over,))
        child.start()
        transport: Any = worker._session.transport
        local = server._service._handover.local
        transport._local.close()
        eventually(lambda: server.on_loop(lambda: not local._connections), "its end")
        over.set()
        child.join(30)


def test_many_who_come_at_once_wait_their_turn() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0optimd-test-queue")
        listener.listen(0)
        with connect("optimd-test-queue"):  # the queue is full
            thread, accepted = in_thread(lambda: (time.sleep(0.3), listener.accept()[0])[1])
            with connect("optimd-test-queue"):
                thread.join(10)
                accepted[0].close()


def test_a_server_elsewhere_is_called_by_grpc_and_tried_once(
    server: ThreadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def unreachable(name: str) -> socket.socket:
        tried.append(name)
        raise ConnectionRefusedError("another network namespace")

    monkeypatch.setattr(client_local, "connect", unreachable)
    with joined(server.address) as worker:
        for _ in range(3):
            worker.step(gradient())
        assert not is_local(worker)
        assert len(tried) == 1
        eventually(lambda: worker.status().workers[0].transport == "grpc", "a heartbeat")
