"""How a job gets its first parameters: one uploader at a time, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.checksum import crc32c
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import SGD, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually, until_bytes
from tests.support.calls import RawClient, refusal, upload_messages
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (100, 10)), Tensor("b", (24,))))
SPEC = JobSpec(LAYOUT, SGD(0.1), Sync(1))
START = np.linspace(-1.0, 1.0, LAYOUT.elements, dtype=np.float32)
CHUNK_BYTES = 1024


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    config = ServerConfig(lease_s=0.3, tick_interval_s=0.05, wait_s_max=0.2, chunk_bytes_max=CHUNK_BYTES)
    with ThreadServer(config) as started:
        yield started


def named(client: RawClient, worker: str) -> int:
    """The token of a worker that was named uploader."""
    answer = client.create("j", SPEC, worker)
    assert answer.disposition == pb.CREATE_DISPOSITION_UPLOAD
    token: int = answer.upload_token
    return token


def upload(client: RawClient, token: int, start: np.ndarray = START) -> None:
    client.call("UploadParameters", upload_messages("j", token, LAYOUT, start, CHUNK_BYTES))


def refused_upload(client: RawClient, messages: Iterator[pb.UploadParametersRequest]) -> tuple[str, dict[str, str]]:
    return refusal(lambda: client.call("UploadParameters", messages))


def assert_created_with_start(client: RawClient) -> None:
    version, flat = client.pull("j")
    assert version.step == 0
    assert flat.tobytes() == START.tobytes()


def test_one_caller_uploads_the_others_wait(client: RawClient) -> None:
    token = named(client, "w0")
    assert client.create("j", SPEC, "w1").disposition == pb.CREATE_DISPOSITION_WAIT
    upload(client, token)
    assert client.create("j", SPEC, "w1").disposition == pb.CREATE_DISPOSITION_READY
    assert_created_with_start(client)


def test_a_waiting_caller_learns_at_once_that_the_job_is_ready(client: RawClient) -> None:
    token = named(client, "w0")
    waiting = client.start("CreateJob", pb.CreateJobRequest(job="j", spec=job_spec_to_proto(SPEC), worker="w1"))
    upload(client, token)
    assert waiting.result(10).disposition == pb.CREATE_DISPOSITION_READY


def test_an_uploader_that_dies_half_way_is_replaced(server: ThreadServer, client: RawClient) -> None:
    token, over = named(client, "w0"), threading.Event()
    garbage = np.full(LAYOUT.elements, 99.0, np.float32)
    half = until_bytes(upload_messages("j", token, LAYOUT, garbage, CHUNK_BYTES), LAYOUT.size_bytes // 2, over)
    call = client.start("UploadParameters", half)
    host = server.host("j")
    eventually(lambda: server.on_loop(lambda: bool(host.shards.flat_parameters()[0] == 99.0)), "the first chunk")
    call.cancel()
    over.set()
    assert client.call("GetJob", pb.GetJobRequest(job="j")).state == pb.JOB_STATE_INITIALIZING
    eventually(lambda: client.create("j", SPEC, "w1").disposition == pb.CREATE_DISPOSITION_UPLOAD, "a new uploader")
    late = upload_messages("j", token, LAYOUT, garbage, CHUNK_BYTES)
    assert refused_upload(client, late)[0] == "NOT_UPLOADER"
    upload(client, named(client, "w1"))
    assert_created_with_start(client)
    assert client.join("j", "w1").epoch > token


def test_an_uploader_may_start_again_at_once(client: RawClient) -> None:
    old, new = named(client, "w0"), named(client, "w0")
    assert new > old
    assert refused_upload(client, upload_messages("j", old, LAYOUT, START, CHUNK_BYTES))[0] == "NOT_UPLOADER"
    upload(client, new)
    assert_created_with_start(client)


def test_a_job_with_parameters_takes_no_others(server: ThreadServer, client: RawClient) -> None:
    token = named(client, "w0")
    upload(client, token)
    state = server.state_hash("j")
    again = upload_messages("j", token, LAYOUT, START + 1, CHUNK_BYTES)
    assert refused_upload(client, again)[0] == "NOT_UPLOADER"
    assert server.state_hash("j") == state


def test_nobody_joins_pulls_or_pushes_before_the_parameters_are_there(client: RawClient) -> None:
    named(client, "w0")
    for call in (lambda: client.join("j", "w0"), lambda: client.pull("j")):
        assert refusal(call)[0] == "JOB_NOT_READY"


def _message_of(offset: int, data: bytes, checksum: int | None = None) -> pb.UploadParametersRequest:
    return pb.UploadParametersRequest(
        offset_bytes=offset, data=data, crc32c=crc32c(data) if checksum is None else checksum
    )


@pytest.mark.parametrize(
    ("reason", "metadata", "change"),
    [
        ("PAYLOAD_SIZE_MISMATCH", {"expected": "4096", "got": "4092"}, {"payload_bytes": 4092}),
        ("PAYLOAD_SIZE_MISMATCH", {"expected": "4096", "got": str(2**40)}, {"payload_bytes": 2**40}),
        ("LAYOUT_MISMATCH", {}, {"layout_digest": b"x" * 32}),
        ("UNKNOWN_JOB", {"job": "k"}, {"job": "k"}),
        ("NOT_UPLOADER", {}, {"upload_token": 77}),
    ],
)
def test_a_wrong_header(client: RawClient, reason: str, metadata: dict[str, str], change: dict[str, object]) -> None:
    token = named(client, "w0")
    first, *rest = upload_messages("j", token, LAYOUT, START, CHUNK_BYTES)
    for field, value in change.items():
        setattr(first.header, field, value)
    found, told = refused_upload(client, iter([first, *rest]))
    assert (found, told) == (reason, {**told, **metadata})
    upload(client, named(client, "w0"))
    assert_created_with_start(client)


@pytest.mark.parametrize(
    ("reason", "messages"),
    [
        ("PAYLOAD_SIZE_MISMATCH", [_message_of(0, b"\0" * 8)]),
        ("PAYLOAD_SIZE_MISMATCH", [_message_of(i * 1024, b"\0" * 1024) for i in range(5)]),
        ("CHUNK_OUT_OF_ORDER", [_message_of(4, b"\0" * 8)]),
        ("CHUNK_OUT_OF_ORDER", [_message_of(0, b"\0" * 6)]),
        ("CHECKSUM_MISMATCH", [_message_of(0, b"\0" * 8, checksum=1)]),
        ("MALFORMED_REQUEST", [_message_of(0, b"\0" * 8, checksum=0)]),
        ("MALFORMED_REQUEST", [pb.UploadParametersRequest(data=b"\0" * 8)]),
        ("MALFORMED_REQUEST", [pb.UploadParametersRequest(header=pb.UploadHeader(job="j"))]),
        ("MALFORMED_REQUEST", [b"\xff\xff"]),
    ],
)
def test_wrong_chunks(client: RawClient, reason: str, messages: list[pb.UploadParametersRequest]) -> None:
    token = named(client, "w0")
    header = next(upload_messages("j", token, LAYOUT, START))
    assert refused_upload(client, iter([header, *messages]))[0] == reason
    upload(client, named(client, "w0"))
    assert_created_with_start(client)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_name_their_tensor(client: RawClient, value: float) -> None:
    bad = START.copy()
    bad[1003] = value
    token = named(client, "w0")
    reason, metadata = refused_upload(client, upload_messages("j", token, LAYOUT, bad, CHUNK_BYTES))
    assert (reason, metadata) == ("NON_FINITE_PARAMETERS", {"tensor": "b"})
    upload(client, named(client, "w0"))
    assert_created_with_start(client)
