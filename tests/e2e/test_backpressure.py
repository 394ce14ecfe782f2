"""Too much at once is refused with a delay to try again after, never queued; what has begun goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from google.rpc import error_details_pb2, status_pb2
from optimd_server.runtime import ServerConfig
from optimdpb.specs import SGD, Async, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually, until_bytes
from tests.support.calls import RawClient, push_header, push_messages, reason_of
from tests.support.servers import ThreadServer

pytestmark = pytest.mark.alone

LAYOUT = Layout((Tensor("w", (1000,)),))
GRADIENT = np.full(1000, 0.5, np.float32)
START = np.zeros(1000, np.float32)
ROOM = 3
HALF_BYTES = LAYOUT.size_bytes // 2


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    """Room for three gradients."""
    config = ServerConfig(threads=1, staging_bytes_max=ROOM * LAYOUT.size_bytes, calls_max=40, lease_s=60.0)
    with ThreadServer(config) as running:
        yield running


def retry_delay_ms(error: grpc.RpcError) -> int:
    """What RetryInfo says; 0 if there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(retry):
                    return int(retry.retry_delay.ToMilliseconds())
    return 0


def check_full(error: grpc.RpcError, **metadata: str) -> None:
    """BACKLOG_FULL, as the contract says."""
    reason, found = reason_of(error)
    assert (error.code(), reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKLOG_FULL")
    assert 500 <= retry_delay_ms(error) <= 1500
    assert found == metadata


def half_push(client: RawClient, job: str, worker: str, epoch: int, over: threading.Event) -> Any:
    """A push of which half has arrived and no more comes until `over`."""
    version, _ = client.pull(job)
    header = push_header(job, worker, epoch, 1, version, LAYOUT)
    return client.start("Push", until_bytes(push_messages(header, GRADIENT, HALF_BYTES), HALF_BYTES, over))


def push(client: RawClient, job: str, worker: str, epoch: int) -> Any:
    """A whole push."""
    version, _ = client.pull(job)
    return client.call("Push", push_messages(push_header(job, worker, epoch, 1, version, LAYOUT), GRADIENT))


def test_pushes_beyond_the_room_are_refused_and_change_nothing(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("job", JobSpec(LAYOUT, SGD(0.1), Async()), START)
    epochs = {f"w{i}": client.join("job", f"w{i}").epoch for i in range(ROOM + 2)}
    over = threading.Event()
    calls = [half_push(client, "job", f"w{i}", epochs[f"w{i}"], over) for i in range(ROOM)]
    staged = server.host("job").shards.staged
    eventually(lambda: server.on_loop(lambda: len(staged)) == ROOM, "three gradients staged")
    before = server.state_hash("job")
    with pytest.raises(grpc.RpcError) as caught:
        push(client, "job", "w3", epochs["w3"])
    room = {"needed_bytes": str(LAYOUT.size_bytes), "staging_bytes_max": str(ROOM * LAYOUT.size_bytes)}
    check_full(caught.value, **room)
    assert server.state_hash("job") == before
    assert server.last_seq("job", "w3", epochs["w3"]) == 0
    calls[0].cancel()
    eventually(lambda: server.on_loop(lambda: len(staged)) == ROOM - 1, "a cancelled push to free its room")
    assert push(client, "job", "w3", epochs["w3"]).outcome.status == pb.OUTCOME_STATUS_APPLIED
    over.set()
    for call in calls[1:]:
        call.cancel()


def test_a_sync_worker_has_its_room_before_it_joins(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("job", JobSpec(LAYOUT, SGD(0.1), Sync(2)), START)
    epochs = {f"w{i}": client.join("job", f"w{i}").epoch for i in range(ROOM)}
    with pytest.raises(grpc.RpcError) as caught:
        client.join("job", "w3")
    room = {"needed_bytes": str(LAYOUT.size_bytes), "staging_bytes_max": str(ROOM * LAYOUT.size_bytes)}
    check_full(caught.value, **room)
    epochs["w2"] = client.join("job", "w2").epoch
    with ThreadPoolExecutor(ROOM) as pool:
        answers = list(pool.map(lambda worker: push(client, "job", worker, epochs[worker]), ("w0", "w1")))
    assert [answer.outcome.status for answer in answers] == [pb.OUTCOME_STATUS_APPLIED] * 2
    client.call("Leave", pb.LeaveRequest(job="job", worker="w2", epoch=epochs["w2"]))
    client.join("job", "w3")


def test_jobs_share_the_room_and_each_can_move(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("quick", JobSpec(LAYOUT, SGD(0.1), Async()), START)
    client.create_ready("slow", JobSpec(LAYOUT, SGD(0.1), Sync(2)), START)
    for worker in ("a", "b"):
        client.join("slow", worker)
    with pytest.raises(grpc.RpcError) as caught:
        client.join("slow", "c")
    check_full(caught.value, needed_bytes=str(LAYOUT.size_bytes), staging_bytes_max=str(ROOM * LAYOUT.size_bytes))
    epoch = client.join("quick", "w").epoch
    assert push(client, "quick", "w", epoch).outcome.status == pb.OUTCOME_STATUS_APPLIED


def test_buffers_kept_for_reuse_make_room_for_others(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("first", JobSpec(LAYOUT, SGD(0.1), Async()), START)
    over = threading.Event()
    epochs = [client.join("first", f"w{i}").epoch for i in range(ROOM)]
    calls = [half_push(client, "first", f"w{i}", epoch, over) for i, epoch in enumerate(epochs)]
    shards = server.host("first").shards
    eventually(lambda: server.on_loop(lambda: len(shards.staged)) == ROOM, "three gradients staged")
    for call in calls:
        call.cancel()
    eventually(lambda: not server.on_loop(lambda: shards.staged), "nothing staged")
    assert shards.buffers == ROOM
    client.create_ready("second", JobSpec(LAYOUT, SGD(0.1), Sync(2)), START)
    for worker in ("a", "b"):
        client.join("second", worker)
    assert shards.buffers == 0
    over.set()


def test_a_job_that_can_never_have_its_room_is_not_made(client: RawClient) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.create_ready("job", JobSpec(LAYOUT, SGD(0.1), Sync(ROOM + 1)), START)
    reason, metadata = reason_of(caught.value)
    assert (reason, metadata["limit"]) == ("LIMIT_EXCEEDED", "staging_bytes_max")


def test_calls_beyond_the_limit_are_shed_but_signs_of_life_get_through(server: ThreadServer, client: RawClient) -> None:
    client.create_ready("job", JobSpec(LAYOUT, SGD(0.1), Sync(2)), START)
    epoch = client.join("job", "w0").epoch
    version, _ = client.pull("job")
    header = push_header("job", "w0", epoch, 1, version, LAYOUT)
    parked = [client.start("Push", push_messages(header, GRADIENT))]
    eventually(lambda: server.last_seq("job", "w0", epoch) == 1, "the push to be taken")
    ask = pb.AwaitOutcomeRequest(job="job", worker="w0", epoch=epoch, seq=1)
    parked += [client.start("AwaitOutcome", ask) for _ in range(39)]

    def is_full() -> bool:
        try:
            client.call("GetJob", pb.GetJobRequest(job="job"))
        except grpc.RpcError as error:
            check_full(error, calls_max="40")
            return True
        return False

    eventually(is_full, "forty calls in hand")
    client.call("Heartbeat", pb.HeartbeatRequest(job="job", worker="w0", epoch=epoch))
    client.call("Leave", pb.LeaveRequest(job="job", worker="w0", epoch=epoch))
    for call in parked:
        assert call.result(timeout=10).outcome.reason == pb.OUTCOME_REASON_NOT_A_MEMBER


def test_many_workers_at_once_all_get_through(server: ThreadServer) -> None:
    """More workers than room, more calls than allowed: everybody is throttled and everybody comes to an end."""
    count, steps = 12, 3

    def work(number: int) -> list[str]:
        with optimd.connect(server.address, job="job", worker=f"w{number}") as worker:
            worker.ensure_job(parameters={"w": START}, optimizer=optimd.SGD(0.1), consistency=optimd.Async())
            worker.pull()
            return [worker.push({"w": GRADIENT}).status for _ in range(steps)]

    with ThreadPoolExecutor(count) as pool:
        statuses = list(pool.map(work, range(count)))
    assert statuses == [["applied"] * steps] * count
    assert server.on_loop(lambda: server.host("job").machine.state.counters.applied) == count * steps


def test_a_puller_that_does_not_read_is_cut_off() -> None:
    """Its messages are the server's memory; the next pull is as good as ever."""
    elements = 10_000_000
    layout = Layout((Tensor("w", (elements,)),))
    with ThreadServer(ServerConfig(threads=1, pull_timeout_s=0.5)) as server, RawClient(server.address) as client:
        client.create_ready("j", JobSpec(layout, SGD(0.1), Async()), np.zeros(elements, np.float32))
        messages = client.call("Pull", pb.PullRequest(job="j"))
        next(messages)
        next(messages)
        (encoded,) = server.host("j").parameters.messages._current.values()
        assert encoded.readers == 1
        eventually(lambda: encoded.readers == 0, "the puller to be cut off")
        with pytest.raises(grpc.RpcError) as refused:
            list(messages)
        assert (refused.value.code(), reason_of(refused.value)[0]) == (grpc.StatusCode.UNAVAILABLE, "PULL_TOO_SLOW")
        assert client.pull("j")[1].size == elements


def test_shared_memory_leaves_room_for_workers_to_come() -> None:
    """Four are promised a gradient each: who comes first may not take more than is over."""
    elements = 20_000
    layout = Layout((Tensor("w", (elements,)),))
    config = ServerConfig(threads=1, staging_bytes_max=5 * layout.size_bytes, lease_s=60.0)
    with ThreadServer(config) as server:
        workers = [optimd.connect(server.address, job="j", worker=f"w{i}") for i in range(4)]
        for worker in workers:
            worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(0.5), optimd.Sync(4))
            worker.pull()
        assert [worker._membership.memory is not None for worker in workers] == [True, False, False, False]
        with ThreadPoolExecutor(4) as threads:
            gradient = {"w": np.ones(elements, np.float32)}
            results = list(threads.map(lambda worker: worker.step(gradient), workers))
        assert {result.status for result in results} == {"applied"}
        assert (results[0].parameters["w"] == -0.5).all()
        for worker in workers:
            worker.close()
