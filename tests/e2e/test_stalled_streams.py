"""A stream that does not go on ends, whatever else its worker says; what had come of it is freed at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimd_server.service import app
from optimdpb.specs import SGD, Async, JobSpec, Layout, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually, until_bytes
from tests.support.calls import RawClient, push_header, push_messages, reason_of, upload_messages
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (1000,)),))
SPEC = JobSpec(LAYOUT, SGD(1.0), Async())
GRADIENT = np.full(1000, 0.5, np.float32)
START = np.zeros(1000, np.float32)
HALF_BYTES = LAYOUT.size_bytes // 2
ROOM = 3
PUSH_TIMEOUT_S = 0.4


def served(**fields: Any) -> ThreadServer:
    settings = {"push_timeout_s": PUSH_TIMEOUT_S, "staging_bytes_max": ROOM * LAYOUT.size_bytes, "lease_s": 60.0}
    return ThreadServer(ServerConfig(**{"threads": 1, "tick_interval_s": 0.05, **settings, **fields}))


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with served() as running:
        yield running


def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call.result(timeout=20)
    return caught.value.code().name, reason_of(caught.value)[0]


def unended(messages: Iterable[Any], over: threading.Event) -> Iterator[Any]:
    """All of them, and no end of the stream."""
    yield from messages
    over.wait(30)


STOPS = {
    "before the header": lambda messages, over: until_bytes(iter(()), 0, over),
    "behind the header": lambda messages, over: until_bytes(messages, 0, over),
    "half way": lambda messages, over: until_bytes(messages, HALF_BYTES, over),
    "before its end": unended,
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=list(STOPS))
def test_a_push_that_stops_is_cut_off(server: ThreadServer, client: RawClient, stop: Any) -> None:
    client.create_ready("j", SPEC, START)
    epoch = client.join("j", "w").epoch
    over = threading.Event()
    version, _ = client.pull("j")
    messages = push_messages(push_header("j", "w", epoch, 1, version, LAYOUT), GRADIENT, HALF_BYTES)
    assert refusal(client.start("Push", stop(messages, over))) == ("UNAVAILABLE", "PUSH_TOO_SLOW")
    assert server.on_loop(lambda: (dict(server.host("j").shards.staged), server._service.gate.calls)) == ({}, 0)
    assert server.last_seq("j", "w", epoch) == 0
    over.set()
    again = client.call("Push", push_messages(push_header("j", "w", epoch, 1, version, LAYOUT), GRADIENT))
    assert again.outcome.status == pb.OUTCOME_STATUS_APPLIED


def test_stalled_pushes_that_send_heartbeats_starve_nobody(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("j", SPEC, START)
    version, _ = client.pull("j")
    epochs = [client.join("j", f"w{index}").epoch for index in range(ROOM)]
    over = threading.Event()
    calls = []
    for index, epoch in enumerate(epochs):
        messages = push_messages(push_header("j", f"w{index}", epoch, 1, version, LAYOUT), GRADIENT, HALF_BYTES)
        calls.append(client.start("Push", until_bytes(messages, HALF_BYTES, over)))
    staged = server.host("j").shards.staged
    eventually(lambda: server.on_loop(lambda: len(staged)) == ROOM, "all the room to be taken")
    good = client.join("j", "good").epoch

    def gets_through() -> bool:
        for index, epoch in enumerate(epochs):
            client.call("Heartbeat", pb.HeartbeatRequest(job="j", worker=f"w{index}", epoch=epoch))
        push = client.start("Push", push_messages(push_header("j", "good", good, 1, version, LAYOUT), GRADIENT))
        error = push.exception(timeout=20)
        assert error is None or reason_of(error)[0] == "BACKLOG_FULL"
        return error is None

    eventually(gets_through, "a good push to get through")
    assert [refusal(call) for call in calls] == [("UNAVAILABLE", "PUSH_TOO_SLOW")] * ROOM
    over.set()


def test_a_push_that_goes_on_slowly_is_let_be(client: RawClient) -> None:
    client.create_ready("j", SPEC, START)
    epoch = client.join("j", "w").epoch
    version, _ = client.pull("j")
    messages = push_messages(push_header("j", "w", epoch, 1, version, LAYOUT), GRADIENT, LAYOUT.size_bytes // 5)

    def slowly() -> Iterator[Any]:
        for message in messages:
            threading.Event().wait(PUSH_TIMEOUT_S / 2)
            yield message

    assert client.call("Push", slowly()).outcome.status == pb.OUTCOME_STATUS_APPLIED


def test_an_upload_that_stops_is_cut_off_and_another_makes_the_job_ready(client: RawClient) -> None:
    token = client.create("j", SPEC, "w0").upload_token
    over = threading.Event()
    upload = upload_messages("j", token, LAYOUT, START, HALF_BYTES)
    assert refusal(client.start("UploadParameters", until_bytes(upload, HALF_BYTES, over))) == (
        "UNAVAILABLE",
        "PUSH_TOO_SLOW",
    )
    over.set()
    client.call("UploadParameters", upload_messages("j", token, LAYOUT, START))
    assert client.join("j", "w0").epoch


@pytest.mark.parametrize(
    "sent", [b"", b"PRI * HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["nothing", "half", "no settings"]
)
def test_who_connects_and_does_not_speak_http2_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**dict(app._OPTIONS), "grpc.server_handshake_timeout_ms": 300}
    assert options.keys() == dict(app._OPTIONS).keys(), "the option is one that the server sets"
    monkeypatch.setattr(app, "_OPTIONS", tuple(options.items()))
    with served() as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent)
            while connection.recv(1000):
                pass


@pytest.mark.parametrize("how", ["expired", "joined again", "left"])
def test_a_push_whose_epoch_is_over_ends_with_it(how: str) -> None:
    """It could wait for its next message for long."""
    with served(push_timeout_s=60.0, lease_s=0.5) as server, RawClient(server.address) as client:
        client.create_ready("j", SPEC, START)
        epoch = client.join("j", "w").epoch
        version, _ = client.pull("j")
        over = threading.Event()
        messages = push_messages(push_header("j", "w", epoch, 1, version, LAYOUT), GRADIENT, HALF_BYTES)
        call = client.start("Push", until_bytes(messages, HALF_BYTES, over))
        staged = server.host("j").shards.staged
        eventually(lambda: server.on_loop(lambda: len(staged)) == 1, "half a push")
        if how == "joined again":
            client.join("j", "w")
        elif how == "left":
            client.call("Leave", pb.LeaveRequest(job="j", worker="w", epoch=epoch))
        assert refusal(call) == ("ABORTED", "PUSH_SUPERSEDED")
        assert server.on_loop(lambda: (len(staged), server._service.gate.calls)) == (0, 0)
        over.set()
