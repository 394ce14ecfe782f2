"""`optimd serve` as its users start and stop it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from optimdpb.specs import SGD, Async, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, push_header, push_messages
from tests.support.servers import ServerProcess

LAYOUT = Layout((Tensor("w", (8,)),))


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimd_server", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_it_says_when_it_is_ready_and_nothing_else_on_stdout() -> None:
    with ServerProcess() as server:
        with RawClient(server.address) as client:
            assert client.call("GetServerInfo", pb.GetServerInfoRequest()).server_version
        rest, _ = server.process.communicate(timeout=30)
        assert (server.process.returncode, rest) == (0, b"")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(signal_number: int) -> None:
    with ServerProcess() as server:
        server.process.send_signal(signal_number)
        assert server.process.wait(30) == 0


def test_a_port_in_use_is_an_error() -> None:
    with ServerProcess() as server:
        run = serve("--listen", server.address)
        assert (run.returncode, run.stdout) == (1, "")
        assert f"cannot listen on {server.address}" in run.stderr
        with RawClient(server.address) as client:
            assert client.call("GetServerInfo", pb.GetServerInfoRequest()).server_version


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "nowhere"], "expected HOST:PORT, got 'nowhere'"),
        (["--listen", "127.0.0.1:70000"], "expected HOST:PORT"),
        (["--listen", ":50051"], "expected HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "0.0.0.0 is not loopback"),
        (["--threads", "0"], "--threads: expected a whole number from 1 to 1024, got '0'"),
        (["--threads", "many"], "expected a whole number from 1 to 1024, got 'many'"),
        (["--lease-s", "0"], "expected a number from 0.1 to 86400"),
        (["--lease-s", "nan"], "expected a number from 0.1 to 86400"),
        (["--port", "1"], "there is no option --port"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str) -> None:
    run = serve(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr


def test_health_and_reflection() -> None:
    with ServerProcess() as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "optimd.v1.JobService", "optimd.v1.WorkerService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=10))
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {"optimd.v1.JobService", "optimd.v1.WorkerService", "grpc.health.v1.Health"}


def test_a_waiting_worker_is_told_before_the_server_ends() -> None:
    """SIGTERM while a push waits for another worker: WAITING at once, health NOT_SERVING, exit 0."""
    with ServerProcess() as server, RawClient(server.address) as client:
        client.create_ready("j", JobSpec(LAYOUT, SGD(0.1), Sync(2)), np.zeros(8, np.float32))
        epoch = client.join("j", "w0").epoch
        client.join("j", "w1")
        version, _ = client.pull("j")
        header = push_header("j", "w0", epoch, 1, version, LAYOUT)
        waiting = client.start("Push", push_messages(header, np.ones(8, np.float32)))
        with grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            eventually(lambda: _last_seq(client) == 1, "the push to be committed")
            started_s = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert waiting.result(30).state == pb.PUSH_STATE_WAITING
            watch.cancel()
        assert server.process.wait(30) == 0
        assert time.monotonic() - started_s < 15


def _last_seq(client: RawClient) -> int:
    seqs: list[int] = [worker.last_seq for worker in client.call("GetJob", pb.GetJobRequest(job="j")).workers]
    return max(seqs)


def test_its_end_does_not_wait_for_idle_connections() -> None:
    with ServerProcess() as server, RawClient(server.address) as client:
        client.call("GetServerInfo", pb.GetServerInfoRequest())
        started_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - started_s < 10


def test_many_workers_at_once() -> None:
    """32 workers in one Sync round, 20 rounds, every push applied."""
    count, rounds = 32, 20
    with ServerProcess() as server, RawClient(server.address) as creator:
        creator.create_ready("j", JobSpec(LAYOUT, SGD(0.1), Sync(count)), np.zeros(8, np.float32))
        statuses: list[int] = []

        def work(name: str) -> None:
            with RawClient(server.address) as client:
                epoch = client.join("j", name).epoch
                for seq in range(1, rounds + 1):
                    base = pb.Version(lineage=lineage, step=seq - 1)
                    header = push_header("j", name, epoch, seq, base, LAYOUT)
                    answer = client.call("Push", push_messages(header, np.ones(8, np.float32)))
                    statuses.append(answer.outcome.status)

        lineage = creator.pull("j")[0].lineage
        threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert statuses == [pb.OUTCOME_STATUS_APPLIED] * count * rounds
        version, flat = creator.pull("j")
        assert version.step == rounds
        assert flat == pytest.approx(-0.1 * rounds, rel=1e-5)


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    """More lines than a pipe holds."""
    layout = Layout((Tensor("w", (3,)),))
    with ServerProcess() as server, RawClient(server.address) as client:
        client.create_ready("j", JobSpec(layout, SGD(0.1), Async()), np.zeros(3, np.float32))
        for number in range(1500):
            client.join("j", f"{'w' * 100}{number}")
        assert len(client.call("GetJob", pb.GetJobRequest(job="j")).workers) == 1500
        assert server.terminate() == 0
