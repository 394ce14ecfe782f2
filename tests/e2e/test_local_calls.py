"""Steps over the server's unix socket: chosen by themselves, answered as over gRPC, given up without a trace."""

from __future__ import annotations

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
from optimdpb import local as frames
from optimdpb.checksum import crc32c
from optimdpb.frames import with_data
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.servers import ServerProcess, ThreadServer

pytestmark = pytest.mark.alone

ELEMENTS = 1_000
LEASE_S = 1.0


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05, wait_s_max=5.0)) as running:
        yield running


def joined(address: str, name: str = "w0", workers: int = 1, **options: Any) -> optimd.Worker:
    worker = optimd.connect(address, job="j", worker=name, **options)
    worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(0.5), optimd.Sync(workers))
    worker.pull()
    return worker


def is_local(worker: optimd.Worker) -> bool:
    return worker._session.transport.is_local


def gradient(value: float = 2.0) -> dict[str, Any]:
    return {"w": np.full(ELEMENTS, value, np.float32)}


def offer_of(worker: optimd.Worker) -> pb.LocalCalls:
    keeper = worker._membership._keeper
    assert keeper is not None
    return keeper.local_calls


def calls_in_hand(server: ThreadServer) -> int:
    local = server._service._handover.local
    return server.on_loop(lambda: sum(each.task is not None for each in local._connections))


def test_it_is_chosen_by_itself_and_status_says_so(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        assert is_local(worker)
        assert worker.step(gradient()).parameters["w"].tolist() == [-1.0] * ELEMENTS
        eventually(lambda: worker.status().workers[0].transport == "unix_socket", "a heartbeat")


def step_request(joiner: optimd.Worker, **fields: Any) -> bytes:
    data = np.full(ELEMENTS, 2.0, np.float32).view(np.uint8)
    checksum = fields.pop("crc32c", crc32c(data))
    header = pb.PushHeader(
        **{
            "job": "j",
            "worker": "w0",
            "epoch": joiner._membership.epoch,
            "seq": joiner._membership.next_seq,
            "base_version": joiner._base,
            "weight": 1.0,
            "payload_bytes": data.nbytes,
            "layout_digest": joiner._session.layout.digest,
            **fields,
        }
    )
    return with_data(pb.StepRequest(header=header, crc32c=checksum), data)


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
            transport._attempt(lambda: transport._method("Step")(request, timeout=5.0))
        assert local.value.reason == remote.value.reason == reason
        assert type(local.value) is type(remote.value)
        assert (str(local.value), local.value.metadata) == (str(remote.value), remote.value.metadata)
        assert server.state_hash("j") == before


def test_damaged_data_is_sent_again(server: ThreadServer) -> None:
    with joined(server.address) as worker, pytest.raises(CallLost, match="DATA_LOSS"):
        LocalConnection(offer_of(worker)).call("Step", step_request(worker, crc32c=1), 5.0)


def raw(worker: optimd.Worker, token: bytes | None = None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5.0)
    offer = offer_of(worker)
    connection.connect(f"\0{offer.socket}")
    connection.sendall(offer.token if token is None else token)
    return connection


def framed(method: str, message: bytes) -> bytes:
    return b"".join(frames.request(method, message))


def reply(connection: socket.socket) -> bytes:
    """Whatever comes until the server has said all it will, or closes."""
    received = connection.recv(1 << 16)
    while received and (frames.size_of(received) or 0) > len(received) - frames.SIZE_BYTES:
        received += connection.recv(1 << 16)
    return received


BAD_FRAMES: list[tuple[str, bytes]] = [
    ("larger than allowed", (frames.BYTES_MAX + 1).to_bytes(4, "little")),
    ("two at once", framed("Heartbeat", b"") * 2),
    ("more than it says", framed("Heartbeat", b"") + b"x"),
]


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1 << 20) == b""
    except ConnectionResetError:  # the server had not read all that was sent
        return True


def test_a_frame_that_does_not_come_ends_the_connection(server: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_local, "FRAME_S_MAX", 0.2)
    with joined(server.address) as worker, raw(worker) as connection:
        assert connection.recv(1) == b"\0"
        connection.sendall(framed("Step", step_request(worker))[:-1])
        assert ended(connection)


def call_and_call(connection: socket.socket) -> None:
    frame = framed("n" * 255, b"")  # its refusal is larger than the call
    for _ in range(100_000):
        connection.sendall(frame)
        time.sleep(0.0005)


def test_who_reads_no_answer_gets_no_other(server: ThreadServer) -> None:
    """What the server holds for a worker is one answer at most."""
    with joined(server.address) as worker, raw(worker) as connection:
        assert connection.recv(1) == b"\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        local, before = server._service._handover.local, 2
        assert server.on_loop(lambda: len(local._connections)) == before
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            call_and_call(connection)
        eventually(lambda: server.on_loop(lambda: len(local._connections)) == before - 1, "its end")
        assert worker.step(gradient()).status == "applied"


@pytest.mark.parametrize("frame", [row[1] for row in BAD_FRAMES], ids=[row[0] for row in BAD_FRAMES])
def test_what_is_no_frame_ends_the_connection(server: ThreadServer, frame: bytes) -> None:
    with joined(server.address) as worker, raw(worker) as connection:
        assert connection.recv(1) == b"\0"
        connection.sendall(frame)
        assert ended(connection)
        assert worker.step(gradient()).status == "applied", "others go on"


@pytest.mark.parametrize(
    ("method", "message", "reason"),
    [
        ("Step", b"\xff\xff", "MALFORMED_REQUEST"),
        ("Step", b"", "MALFORMED_REQUEST"),
        ("Push", b"", "NOT_SERVED"),
        ("CreateJob", b"", "NOT_SERVED"),
        ("", b"", "NOT_SERVED"),
        ("n" * 255, b"", "NOT_SERVED"),
    ],
)
def test_what_is_no_call_is_refused_and_the_next_is_answered(
    server: ThreadServer, method: str, message: bytes, reason: str
) -> None:
    with joined(server.address) as worker:
        connection = LocalConnection(offer_of(worker))
        with pytest.raises(optimd.Refused) as refused:
            connection.call(method, message, 5.0)
        assert refused.value.reason == reason
        beat = pb.HeartbeatRequest(job="j", worker="w0", epoch=worker._membership.epoch).SerializeToString()
        answer = pb.HeartbeatResponse.FromString(connection.call("Heartbeat", beat, 5.0))
        assert answer.lease_ms == LEASE_S * 1000
        connection.close()


def test_a_frame_may_come_in_pieces(server: ThreadServer) -> None:
    with joined(server.address) as worker, raw(worker) as connection:
        assert connection.recv(1) == b"\0"
        frame = framed("Step", step_request(worker))
        for start in range(0, len(frame), 1000):
            connection.sendall(frame[start : start + 1000])
            time.sleep(0.001)
        answered, message = frames.response_of(reply(connection)[frames.SIZE_BYTES :])
        assert answered
        assert pb.StepResponse.FromString(message).outcome.status == pb.OUTCOME_STATUS_APPLIED


@pytest.mark.parametrize("token", [bytes(16), b"short"])
def test_without_the_token_nothing_is_answered(server: ThreadServer, token: bytes) -> None:
    with joined(server.address) as worker, raw(worker, token) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_beyond_the_most_connections_workers_go_by_grpc(server: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_local, "CONNECTIONS_MAX", 1)
    with joined(server.address) as first, joined(server.address, "w1") as second:
        assert [is_local(first), is_local(second)] == [True, False]
        eventually(lambda: second.status().workers[1].transport == "grpc", "a heartbeat")


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
        eventually(lambda: calls_in_hand(server) == 0, "the call to be over")
        assert second.step(gradient(4.0)).parameters["w"][0] == -1.5
        assert second.status().applied == 2


def test_a_deadline_ends_the_connection_and_the_next_step_opens_another(
    server: ThreadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joined(server.address, "w0", 2, timeout_s=30.0) as first, joined(server.address, "w1", 2) as second:
        before: Any = first._session.transport
        connection = before._local
        monkeypatch.setattr("optimd.worker.WAIT_MARGIN_S", -4.8)
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
