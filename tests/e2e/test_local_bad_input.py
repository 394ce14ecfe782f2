"""What a hostile or broken client may send on the server's unix socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import optimd
import pytest
from optimd.transport.local import LocalConnection
from optimd_server.runtime import ServerConfig
from optimd_server.service import local as server_local
from optimdpb import local as frames
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.local import LEASE_S, framed, gradient, joined, offer_of, raw, step_request
from tests.support.servers import ThreadServer


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05, wait_s_max=5.0)) as running:
        yield running


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


def test_who_reads_no_answer_gets_no_other(server: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server holds for a worker is one answer at most, though each call comes when the last is answered."""
    answered: list[None] = []
    plain = server_local._Connection._answer

    async def counted(self: server_local._Connection, request: bytearray) -> None:
        await plain(self, request)
        answered.append(None)

    monkeypatch.setattr(server_local._Connection, "_answer", counted)
    with joined(server.address) as worker, raw(worker) as connection:
        assert connection.recv(1) == b"\0"
        local = server._service._handover.local
        frame = framed("n" * 255, b"")  # its refusal is larger than the call
        for sent in range(1, 5_000):
            try:
                connection.sendall(frame)
            except (BrokenPipeError, ConnectionResetError):
                break
            while len(answered) < sent and len(local._connections) == 2:
                time.sleep(0.0001)
        else:
            pytest.fail("the server went on answering")
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
        answered, message = frames.response_of(reply(connection))
        assert answered
        assert pb.StepResponse.FromString(message).outcome.status == pb.OUTCOME_STATUS_APPLIED


@pytest.mark.parametrize("token", [bytes(16), b"short"])
def test_without_the_token_nothing_is_answered(server: ThreadServer, token: bytes) -> None:
    with joined(server.address) as worker, raw(worker, token) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
