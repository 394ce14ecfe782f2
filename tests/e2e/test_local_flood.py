"""Processes of this machine that know the name of the unix socket and no token, and members that send halves."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator

import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimd_server.service import handover, local
from optimdpb import local as frames

from tests.e2e.local import LEASE_S, joined, offer_of, raw
from tests.e2e.scene import eventually
from tests.support.servers import ThreadServer


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05)) as running:
        yield running


@pytest.fixture
def worker(server: ThreadServer) -> Iterator[optimd.Worker]:
    with joined(server.address) as connected:
        yield connected


def silent(worker: optimd.Worker) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10.0)
    connection.connect(f"\0{offer_of(worker).socket}")
    return connection


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_says_nothing_is_closed_soon_and_named(
    server: ThreadServer, worker: optimd.Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handover, "SILENT_S", 0.2)
    assert handover.SILENT_S < handover.TOKEN_S
    with caplog.at_level(logging.WARNING, handover.__name__):
        connections = [silent(worker) for _ in range(20)]
        assert all(is_closed(connection) for connection in connections)
        wrong = raw(worker, b"x" * 16)
        assert is_closed(wrong)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"process {os.getpid()} of user {os.getuid()} connected to the unix socket and sent nothing in 0.2 s"
    ]
    for connection in (*connections, wrong):
        connection.close()
    assert server.on_loop(lambda: server._service._handover._silent) == {}


def test_another_user_cannot_take_all_places(
    server: ThreadServer, worker: optimd.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = iter([handover.Peer(1, 4242)] * 10)
    real = handover._peer_of
    monkeypatch.setattr(handover, "SILENT_FOREIGN_MAX", 4)
    monkeypatch.setattr(handover, "_peer_of", lambda connection: next(peers, None) or real(connection))
    connections = [silent(worker) for _ in range(10)]
    hand = server._service._handover
    eventually(lambda: server.on_loop(lambda: hand._silent[4242]) == 4, "four to be let in")
    assert all(is_closed(connection) for connection in connections[4:])
    mine = raw(worker)
    assert mine.recv(1) == b"\0", "a worker with the token gets in"
    for connection in (*connections, mine):
        connection.close()


def test_a_connection_tells_who_made_it() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    assert handover._peer_of(left) == (os.getpid(), os.getuid())
    left.close()
    right.close()


def test_halves_of_frames_are_bounded_together(
    server: ThreadServer, worker: optimd.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = struct.pack("<I", frames.BYTES_MAX) + b"x" * 100_000
    monkeypatch.setattr(local, "UNFINISHED_BYTES_MAX", 3 * len(half))
    calls = server._service._handover.local
    connections = [raw(worker) for _ in range(4)]
    for count, connection in enumerate(connections, 1):
        assert connection.recv(1) == b"\0"
        connection.sendall(half)
        if count <= 3:
            eventually(lambda count=count: calls.unfinished_bytes == count * len(half), "it to come")  # type: ignore[misc]
    assert is_closed(connections[3])
    eventually(lambda: calls.unfinished_bytes == 3 * len(half), "the fourth to be forgotten")
    for connection in connections:
        connection.close()
    eventually(lambda: calls.unfinished_bytes == 0, "all to be forgotten")
    worker.pull()
