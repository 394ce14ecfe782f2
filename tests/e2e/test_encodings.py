"""Payloads in fewer bytes, over the wire and into the kernels: bits, refusals, convergence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from numpy.typing import NDArray
from optimd.demo import data
from optimd.encoding import Int8Blocks, Payload
from optimd_server.runtime import ServerConfig
from optimdpb.blocks import INT8_BLOCK_BYTES
from optimdpb.checksum import crc32c
from optimdpb.encodings import payload_bytes
from optimdpb.specs import Adam, Async, ClipGlobalNorm, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, push_header, push_messages, reason_of
from tests.support.servers import ThreadServer
from tests.support.trainer import Part, Trainer
from tests.unit.client.test_encoding import decoded

# Shards of three are cut inside blocks, tensors too.
LAYOUT = Layout((Tensor("w", (9001,)), Tensor("b", (3,)), Tensor("v", (20_011,))))
START = np.linspace(-1, 1, LAYOUT.elements).astype(np.float32)
INT8 = {"encoding": pb.ENCODING_INT8_BLOCK, "payload_bytes": payload_bytes(pb.ENCODING_INT8_BLOCK, LAYOUT.elements)}


@pytest.fixture(params=[1, 3], ids=["1 shard", "3 shards"])
def server(request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    config = ServerConfig(threads=2, shards=request.param, shared_memory=False, one_thread_bytes_max=0)
    with ThreadServer(config) as running:
        yield running


def gradient(*seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(LAYOUT.elements).astype(np.float32)


def int8(values: NDArray[np.float32]) -> bytes:
    return b"".join(chunk.tobytes() for chunk in Payload(values, Int8Blocks(values.size)).chunks(1 << 20))


def stream(header: pb.PushHeader, payload: bytes, chunk_bytes: int = 5 * INT8_BLOCK_BYTES) -> Iterator[pb.PushRequest]:
    yield pb.PushRequest(header=header)
    for offset in range(0, len(payload), chunk_bytes):
        chunk = payload[offset : offset + chunk_bytes]
        yield pb.PushRequest(offset_bytes=offset, crc32c=crc32c(chunk), data=chunk)


def header_of(client: RawClient, worker: str, epoch: int, seq: int, **fields: Any) -> pb.PushHeader:
    now = client.call("GetJob", pb.GetJobRequest(job="j")).header
    return push_header("j", worker, epoch, seq, pb.Version(lineage=now.lineage, step=now.step), LAYOUT, **fields)


@pytest.mark.parametrize("clip", [None, ClipGlobalNorm(1.0)], ids=["one pass", "two passes"])
def test_three_encodings_in_one_round(server: ThreadServer, clip: Any) -> None:
    """To the bit what one process makes of the decoded gradients, in the order of the workers' names."""
    spec = JobSpec(LAYOUT, Adam(0.01), Sync(3), clip=clip)
    expected = Trainer(spec, START)
    with RawClient(server.address) as client:
        client.create_ready("j", spec, START)
        epochs = [client.join("j", f"w{i}").epoch for i in range(3)]
        for step in range(5):
            exact, halves = gradient(step, 0), (gradient(step, 1).view(np.uint32) >> 16).astype(np.uint16)
            blocks = int8(gradient(step, 2))
            turn = step % 3  # each place in the sum sees each encoding
            pushes = [
                push_messages(header_of(client, f"w{turn}", epochs[turn], step + 1), exact),
                stream(
                    header_of(
                        client,
                        f"w{(turn + 1) % 3}",
                        epochs[(turn + 1) % 3],
                        step + 1,
                        encoding=pb.ENCODING_BF16,
                        payload_bytes=2 * LAYOUT.elements,
                        weight=2.0,
                    ),
                    halves.tobytes(),
                    4000,
                ),
                stream(
                    header_of(client, f"w{(turn + 2) % 3}", epochs[(turn + 2) % 3], step + 1, weight=3.0, **INT8),
                    blocks,
                ),
            ]
            waiting = [client.start("Push", push) for push in pushes]
            assert {call.result().outcome.status for call in waiting} == {pb.OUTCOME_STATUS_APPLIED}
            parts = [
                Part(f"w{turn}", 1.0, exact),
                Part(f"w{(turn + 1) % 3}", 2.0, halves),
                Part(f"w{(turn + 2) % 3}", 3.0, decoded(blocks, LAYOUT.elements)),
            ]
            expected.round(sorted(parts, key=lambda part: part.worker))
            assert client.pull("j")[1].tobytes() == expected.parameters.tobytes()


def test_bad_blocks(server: ThreadServer) -> None:
    good = int8(gradient(0))
    with RawClient(server.address) as client:
        client.create_ready("j", JobSpec(LAYOUT, Adam(0.01), Async()), START)
        epoch = client.join("j", "w0").epoch
        for requests, reason in (
            (stream(header_of(client, "w0", epoch, 1, **{**INT8, "payload_bytes": 4}), b""), "PAYLOAD_SIZE_MISMATCH"),
            (
                stream(header_of(client, "w0", epoch, 1, **INT8), good[: -(len(good) % INT8_BLOCK_BYTES)]),
                "PAYLOAD_SIZE_MISMATCH",
            ),
            (stream(header_of(client, "w0", epoch, 1, **INT8), good + b"\0"), "CHUNK_OUT_OF_ORDER"),
            (stream(header_of(client, "w0", epoch, 1, **INT8), good, 261), "CHUNK_OUT_OF_ORDER"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                client.call("Push", requests)
            assert reason_of(refused.value)[0] == reason
        state = client.pull("j")[1].tobytes()
        scales = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20]
        for seq, scale in enumerate(scales, 1):
            bad = bytearray(good)
            at = 100 * INT8_BLOCK_BYTES
            bad[at : at + 4] = np.float32(scale).tobytes()
            answer = client.call("Push", stream(header_of(client, "w0", epoch, seq, **INT8), bytes(bad)))
            expected = pb.OUTCOME_REASON_TOO_LARGE if abs(scale) == 1e20 else pb.OUTCOME_REASON_NON_FINITE
            assert (answer.outcome.status, answer.outcome.reason) == (pb.OUTCOME_STATUS_REJECTED, expected)
        assert client.pull("j")[1].tobytes() == state
        answer = client.call("Push", stream(header_of(client, "w0", epoch, len(scales) + 1, **INT8), good))
        assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED


def test_parameters_in_bfloat16(server: ThreadServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0", pull_dtype="bfloat16") as worker:
        worker.ensure_job({"w": START}, optimd.SGD(0.1), optimd.Sync(1))
        assert worker.pull()["w"] == pytest.approx(START, rel=2**-8)
        result = worker.step({"w": gradient(1)})
        exact, _ = server.vectors("j")
        assert (result.parameters["w"].view(np.uint32) & 0xFFFF).max() == 0
        assert result.parameters["w"] == pytest.approx(exact, rel=2**-8)
        assert result.parameters["w"].flags.writeable
        assert worker.step({"w": gradient(2)}).status == "applied", "the version is the one that was pulled"


@pytest.mark.parametrize("elements", [20_000, 25_600])
def test_a_step_in_one_call_takes_int8(server: ThreadServer, elements: int) -> None:
    with optimd.connect(server.address, job="j", worker="w0", push_dtype="int8") as worker:
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        values = np.random.default_rng(1).standard_normal(elements).astype(np.float32)
        result = worker.step({"w": values})
        assert result.status == "applied"
        assert result.parameters["w"] == pytest.approx(-values, abs=0.03)


def test_what_int8_loses_counts_with_the_next_push_that_is_applied(server: ThreadServer) -> None:
    """Told from the parameters: SGD with rate 1 adds up what was sent, late and rejected pushes leave no debt."""
    with optimd.connect(server.address, job="j", worker="w0", push_dtype="int8") as worker:
        worker.ensure_job({"w": np.zeros_like(START)}, optimd.SGD(1.0), optimd.Async(staleness_max=0))
        worker.pull()
        mine, total = Int8Blocks(LAYOUT.elements), np.zeros(LAYOUT.elements, np.float32)
        for step in range(6):
            values = gradient(step)
            if step == 2:
                assert worker.push({"w": np.full_like(values, np.nan)}).reason == "non_finite"
            if step == 3:
                assert worker.push({"w": values}).reason == "stale"
                worker.pull()
            sent = decoded(b"".join(c.tobytes() for c in Payload(values, mine).chunks(1 << 20)), LAYOUT.elements)
            mine.settled(applied=True)
            total = total - sent
            assert worker.push({"w": values}).status == "applied"
            if step != 2:
                worker.pull()
        assert server.vectors("j")[0].tobytes() == total.tobytes()


@pytest.mark.parametrize("pull_dtype", ["float32", "bfloat16"])
def test_parameters_are_encoded_once_for_all_who_pull(server: ThreadServer, pull_dtype: str) -> None:
    observers = [optimd.connect(server.address, job="j", observer=True, pull_dtype=pull_dtype) for _ in range(4)]
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": START}, optimd.SGD(0.1), optimd.Sync(1))
        worker.pull()
        for step in range(3):
            before = server.host("j").parameters.messages.made
            threads = [threading.Thread(target=observer.pull) for observer in observers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            again = 0 if step == 0 and pull_dtype == "float32" else 1  # the worker's own pull was the first
            assert server.host("j").parameters.messages.made == before + again
            worker.pull()
            worker.push({"w": gradient(step)})
    for observer in observers:
        observer.close()


def test_who_has_the_version_gets_no_payload(server: ThreadServer) -> None:
    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": START}, optimd.SGD(0.1), optimd.Sync(1))
        first = worker.pull(copy=False)["w"]
        encodings = server.host("j").parameters.messages.made
        worker.push({"w": np.zeros_like(START)})
        assert worker.pull(copy=False)["w"] is first
        worker.pull(copy=False)
        assert server.host("j").parameters.messages.made == encodings + 1, "the second time there was nothing to send"
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 1.0


def accuracy(address: str, push_dtype: str, pull_dtype: str, seed: int, steps: int) -> float:
    """Of a network for digits after so many updates of two workers."""
    digits, hidden = data.load(), 256
    rng = np.random.default_rng(seed)
    start = {
        "w1": (rng.standard_normal((64, hidden)) * 0.1).astype(np.float32),
        "b1": np.zeros(hidden, np.float32),
        "w2": (rng.standard_normal((hidden, 10)) * 0.1).astype(np.float32),
    }
    job, found = f"{push_dtype}-{pull_dtype}-{seed}", []

    def scores(parameters: Any, x: Any) -> tuple[Any, Any]:
        inner = np.maximum(x @ parameters["w1"] + parameters["b1"], 0)
        return inner, inner @ parameters["w2"]

    def train(index: int) -> None:
        rows = np.random.default_rng([seed, index])
        with optimd.connect(
            address, job=job, worker=f"w{index}", push_dtype=push_dtype, pull_dtype=pull_dtype
        ) as worker:
            worker.ensure_job(start, optimd.SGDM(0.05), optimd.Sync(2), steps_max=steps)
            parameters = worker.pull()
            for _ in range(steps):
                batch = rows.integers(0, len(digits.train_labels), 16)
                x, labels = digits.train_x[batch], digits.train_labels[batch]
                inner, logits = scores(parameters, x)
                off = np.exp(logits - logits.max(axis=1, keepdims=True))
                off /= off.sum(axis=1, keepdims=True)
                off[np.arange(16), labels] -= 1
                back = (off @ parameters["w2"].T) * (inner > 0)
                grads = {"w1": x.T @ back, "b1": back.sum(axis=0), "w2": inner.T @ off}
                grads = {name: (value / 16).astype(np.float32) for name, value in grads.items()}
                parameters = worker.step(grads, weight=16).parameters
            found.append(float(np.mean(scores(parameters, digits.test_x)[1].argmax(axis=1) == digits.test_labels)))

    threads = [threading.Thread(target=train, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    return found[0]


def check_convergence(seeds: int, steps: int) -> None:
    """All within a point of float32 at equal steps."""
    pairs = [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")]
    with ThreadServer(ServerConfig(threads=1, shared_memory=False)) as server:
        means = {
            pair: float(np.mean([accuracy(server.address, *pair, seed, steps) for seed in range(seeds)]))
            for pair in pairs
        }
    print(means)
    exact = means["float32", "float32"]
    assert exact > 0.93
    assert all(mean > exact - 0.01 for mean in means.values())


def test_lossy_encodings_train_as_well_at_equal_steps() -> None:
    check_convergence(seeds=1, steps=200)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_lossy_encodings_train_as_well_over_seeds() -> None:
    check_convergence(seeds=5, steps=400)
