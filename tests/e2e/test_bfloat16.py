"""Pushes in bfloat16 by hand-written calls: read in place beside float32 ones, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.runtime import ServerConfig
from optimdpb.checksum import crc32c
from optimdpb.specs import Adam, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, push_header, push_messages, reason_of
from tests.support.servers import ThreadServer
from tests.support.trainer import Part, Trainer

LAYOUT = Layout((Tensor("w", (9001,)), Tensor("b", (3,))))
START = np.linspace(-1, 1, LAYOUT.elements).astype(np.float32)
CHUNK_BYTES = 1002


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=2, shards=3)) as running:
        yield running


def halves(step: int) -> NDArray[np.uint16]:
    """A bfloat16 gradient as its bits."""
    values = np.random.default_rng(step).standard_normal(LAYOUT.elements).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def stream(header: pb.PushHeader, data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Iterator[pb.PushRequest]:
    yield pb.PushRequest(header=header)
    for offset in range(0, len(data), chunk_bytes):
        chunk = data[offset : offset + chunk_bytes]
        yield pb.PushRequest(offset_bytes=offset, crc32c=crc32c(chunk), data=chunk)


def header_of(client: RawClient, job: str, worker: str, epoch: int, seq: int, **fields: Any) -> pb.PushHeader:
    version = client.call("GetJob", pb.GetJobRequest(job=job)).header
    base = pb.Version(lineage=version.lineage, step=version.step)
    narrow = {"encoding": pb.ENCODING_BF16, "payload_bytes": 2 * LAYOUT.elements}
    return push_header(job, worker, epoch, seq, base, LAYOUT, **{**narrow, **fields})


def test_bfloat16_and_float32_workers_in_one_round(server: ThreadServer) -> None:
    spec = JobSpec(LAYOUT, Adam(0.01), Sync(2))
    expected = Trainer(spec, START)
    with RawClient(server.address) as client:
        client.create_ready("j", spec, START)
        epochs = [client.join("j", worker).epoch for worker in ("w0", "w1")]
        for step in range(5):
            wide = np.random.default_rng([step, 1]).standard_normal(LAYOUT.elements).astype(np.float32)
            f32 = {"encoding": pb.ENCODING_F32, "payload_bytes": LAYOUT.size_bytes}
            first = stream(header_of(client, "j", "w0", epochs[0], step + 1), halves(step).tobytes())
            waiting = client.start("Push", first)
            second = push_messages(header_of(client, "j", "w1", epochs[1], step + 1, **f32, weight=3.0), wide)
            assert client.call("Push", second).outcome.status == pb.OUTCOME_STATUS_APPLIED
            assert waiting.result().outcome.status == pb.OUTCOME_STATUS_APPLIED
            expected.round([Part("w0", 1.0, halves(step)), Part("w1", 3.0, wide)])
            assert client.pull("j")[1].tobytes() == expected.parameters.tobytes()


def test_step_takes_bfloat16_too(server: ThreadServer) -> None:
    spec = JobSpec(LAYOUT, Adam(0.01), Sync(1))
    expected = Trainer(spec, START)
    expected.update(halves(0))
    with RawClient(server.address) as client:
        client.create_ready("j", spec, START)
        header = header_of(client, "j", "w0", client.join("j", "w0").epoch, 1)
        data = halves(0).tobytes()
        answer = client.call("Step", pb.StepRequest(header=header, data=data, crc32c=crc32c(data)))
    assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED
    assert answer.data == expected.parameters.tobytes()


def test_bad_bfloat16(server: ThreadServer) -> None:
    """Refused or rejected as float32 is, and then a good one counts."""
    data = halves(0)
    with RawClient(server.address) as client:
        client.create_ready("j", JobSpec(LAYOUT, Adam(0.01), Sync(1)), START)
        epoch = client.join("j", "w0").epoch
        for requests, reason in (
            (
                stream(header_of(client, "j", "w0", epoch, 1, payload_bytes=LAYOUT.size_bytes), b""),
                "PAYLOAD_SIZE_MISMATCH",
            ),
            (stream(header_of(client, "j", "w0", epoch, 1), data.tobytes()[:-2]), "PAYLOAD_SIZE_MISMATCH"),
            (stream(header_of(client, "j", "w0", epoch, 1), data.tobytes(), 1001), "CHUNK_OUT_OF_ORDER"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                client.call("Push", requests)
            assert reason_of(refused.value)[0] == reason
        for seq, bits in enumerate((0x7F80, 0xFF80, 0x7FC1), 1):
            bad = data.copy()
            bad[LAYOUT.elements - seq] = bits
            answer = client.call("Push", stream(header_of(client, "j", "w0", epoch, seq), bad.tobytes()))
            assert answer.outcome.reason == pb.OUTCOME_REASON_NON_FINITE
        answer = client.call("Push", stream(header_of(client, "j", "w0", epoch, 4), data.tobytes()))
        assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED
