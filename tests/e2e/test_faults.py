"""Lost replies, cut streams and killed workers between the real client and the real server: exactly one application."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.specs import SGDM, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, push_header, push_messages
from tests.support.proxy import Proxy
from tests.support.servers import ThreadServer

LARGE_ELEMENTS = 25_000_000
RESENT_BYTES_MAX = 1_000_000


@pytest.fixture(params=[False, True], ids=["grpc", "shared memory"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def server(shared: bool) -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=2, lease_s=5.0, wait_s_max=1.0, shared_memory=shared)) as started:
        yield started


@pytest.fixture
def proxy(server: ThreadServer) -> Iterator[Proxy]:
    with Proxy(server.address) as made:
        yield made


def start_job(worker: optimd.Worker, elements: int, workers: int = 1) -> None:
    worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(0.5), optimd.Sync(workers))
    worker.pull()


def applied(server: ThreadServer) -> int:
    host = server.host("j")
    return server.on_loop(lambda: host.machine.state.counters.applied)


@pytest.mark.parametrize("shared", [False], indirect=True)
def test_the_lost_reply_of_a_large_push_costs_a_question(server: ThreadServer, proxy: Proxy) -> None:
    """100 MB are sent once: the client asks on a new connection what became of them."""
    with optimd.connect(proxy.address, job="j", worker="w0") as worker:
        start_job(worker, LARGE_ELEMENTS)
        payload_bytes = 4 * LARGE_ELEMENTS
        before_bytes = proxy.sent_bytes

        def lose_the_reply() -> None:
            proxy.wait_sent(before_bytes + payload_bytes // 2)
            proxy.hold_answers = True
            eventually(lambda: applied(server) == 1, "the push to be applied", timeout_s=60)
            proxy.cut()
            proxy.hold_answers = False

        thief = threading.Thread(target=lose_the_reply)
        thief.start()
        result = worker.push({"w": np.ones(LARGE_ELEMENTS, np.float32)})
        thief.join()
        assert (result.status, result.global_step) == ("applied", 1)
        resent_bytes = proxy.sent_bytes - before_bytes - payload_bytes
        assert 0 < resent_bytes < RESENT_BYTES_MAX
        status = worker.status()
        assert (status.applied, status.global_step) == (1, 1)
        assert worker.pull()["w"][[0, -1]].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("method", ["push", "step"])
@pytest.mark.parametrize("elements", [10, 300_000, 1_200_000])
def test_a_connection_cut_again_and_again(server: ThreadServer, proxy: Proxy, method: str, elements: int) -> None:
    """30 updates while every connection is cut at whatever moment it gets to: 30 applications."""
    over = threading.Event()
    rng = np.random.default_rng(elements)

    def cut() -> None:
        while not over.wait(rng.exponential(0.04)):
            proxy.cut()
            server.cut_local()

    with optimd.connect(proxy.address, job="j", worker="w0") as worker:
        start_job(worker, elements)
        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            for step in range(30):
                gradient = {"w": np.full(elements, 2.0, np.float32)}
                result = getattr(worker, method)(gradient)
                assert (result.status, result.global_step) == ("applied", step + 1)
                if method == "push":
                    worker.pull()
        finally:
            over.set()
            cutter.join()
    assert applied(server) == 30
    assert (server.vectors("j")[0] == -30.0).all()


@pytest.mark.parametrize("shared", [False], indirect=True)
def test_a_push_cut_in_its_middle_is_sent_again(server: ThreadServer, proxy: Proxy) -> None:
    elements = 5_000_000
    with optimd.connect(proxy.address, job="j", worker="w0") as worker:
        start_job(worker, elements)
        before_bytes = proxy.sent_bytes

        def cut() -> None:
            proxy.wait_sent(before_bytes + 2 * elements)
            proxy.cut()

        cutter = threading.Thread(target=cut)
        cutter.start()
        assert worker.push({"w": np.ones(elements, np.float32)}).status == "applied"
        cutter.join()
        assert proxy.sent_bytes - before_bytes > 5 * elements
    assert applied(server) == 1
    assert (server.vectors("j")[0] == -0.5).all()


DYING_WORKER = """
import sys, threading, numpy as np
from optimdpb.specs import Layout, Tensor
from optimdpb.v1 import optimd_pb2 as pb
from tests.support.calls import RawClient, push_header, push_messages

layout = Layout((Tensor("w", (1_000_000,)),))
client = RawClient(sys.argv[1])
epoch = client.join("j", "doomed").epoch
version, _ = client.pull("j")

def half():
    header = push_header("j", "doomed", epoch, 1, version, layout)
    for count, message in enumerate(push_messages(header, np.full(1_000_000, 9.0, np.float32))):
        yield message
        if count == 2:
            print(epoch, flush=True)
            threading.Event().wait()

client.call("Push", half())
"""


@pytest.mark.parametrize("shared", [False], indirect=True)
def test_a_killed_workers_half_sent_push_leaves_no_trace(server: ThreadServer) -> None:
    """kill -9 in the middle of a stream: no bit of it in the state, and the others go on when its lease is over."""
    layout = Layout((Tensor("w", (1_000_000,)),))
    with RawClient(server.address) as client:
        client.create_ready(
            "j", JobSpec(layout, SGDM(0.5), Sync(2, workers_min=1)), np.zeros(layout.elements, np.float32)
        )
        epoch = client.join("j", "w0").epoch
        command = [sys.executable, "-c", DYING_WORKER, server.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as doomed:
            assert doomed.stdout is not None
            doomed_epoch = int(doomed.stdout.readline())
            host = server.host("j")
            eventually(lambda: server.on_loop(lambda: ("doomed", doomed_epoch) in host.shards.staged), "a staged half")
            state = server.state_hash("j")
            doomed.send_signal(signal.SIGKILL)
        version, _ = client.pull("j")
        header = push_header("j", "w0", epoch, 1, version, layout)
        waiting = client.start("Push", push_messages(header, np.ones(layout.elements, np.float32)))
        eventually(lambda: server.last_seq("j", "w0", epoch) == 1, "the other's push")
        assert server.state_hash("j") == state
        answer = waiting.result(30)
        while answer.state != pb.PUSH_STATE_DONE:
            answer = client.call("AwaitOutcome", pb.AwaitOutcomeRequest(job="j", worker="w0", epoch=epoch, seq=1))
        assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED
        assert answer.outcome.world_size == 1
        assert not server.on_loop(lambda: host.shards.staged)
        assert server.last_seq("j", "doomed", doomed_epoch) == 0
    assert (server.vectors("j")[0] == -0.5).all()


@pytest.mark.parametrize("shared", [False], indirect=True)
def test_a_duplicate_sent_by_a_broken_network_gets_the_first_outcome(server: ThreadServer) -> None:
    layout = Layout((Tensor("w", (100,)),))
    with RawClient(server.address) as client:
        client.create_ready("j", JobSpec(layout, SGDM(0.5), Sync(1)), np.zeros(100, np.float32))
        epoch = client.join("j", "w0").epoch
        version, _ = client.pull("j")
        header = push_header("j", "w0", epoch, 1, version, layout)
        answers = [client.call("Push", push_messages(header, np.ones(100, np.float32))) for _ in range(3)]
        assert answers[1].outcome == answers[0].outcome == answers[2].outcome
        job = client.call("GetJob", pb.GetJobRequest(job="j"))
        assert (job.header.step, job.counters.applied, job.counters.duplicates) == (1, 1, 2)
