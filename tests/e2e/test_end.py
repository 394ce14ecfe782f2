"""The end of a server with everything open that can be: what is ready is saved first, whoever holds on to a stream."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import optimd
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from optimdpb.checksum import crc32c
from optimdpb.specs import SGD, Adam, Async, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.support.calls import RawClient, push_header
from tests.support.servers import ServerProcess

# With Adam's two slots 100 MB of state.
LARGE = Layout((Tensor("w", (100_000_000 // 12,)),))
SMALL = Layout((Tensor("w", (25_000,)),))
SAVED_S_MAX = 5.0
STALLED = 500


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def steps_saved(data: Path) -> dict[str, tuple[int, str]]:
    """Step and lineage of the newest snapshot of each job."""
    found = {}
    for path in sorted(data.glob("*/*-step-*/manifest.json")):
        body = json.loads(path.read_text())
        found[body["job"]] = body["state"]["step"], body["state"]["lineage"]
    return found


def train(address: str, job: str, layout: Layout, steps: int) -> str:
    """A job with one worker that has made some steps and left. Returns its lineage."""
    with optimd.connect(address, job=job, worker="w0") as worker:
        start = np.zeros(layout.elements, np.float32)
        worker.ensure_job({"w": start}, optimd.Adam(0.1), optimd.Sync(1))
        worker.pull()
        for _ in range(steps):
            worker.step({"w": np.ones(layout.elements, np.float32)})
        return worker.status().lineage


def half_a_push(
    client: RawClient, job: str, worker: str, layout: Layout, base: pb.Version, end: threading.Event
) -> None:
    """Send some of a gradient and no more."""
    header = push_header(job, worker, client.join(job, worker).epoch, 1, base, layout)

    def messages() -> Iterator[pb.PushRequest]:
        chunk = bytes(40_000)
        yield pb.PushRequest(header=header)
        yield pb.PushRequest(crc32c=crc32c(chunk), data=chunk)
        end.wait(120)

    client.start("Push", messages())


def test_everything_is_saved_first_whatever_streams_are_open(data: Path) -> None:
    end = threading.Event()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ServerProcess("--data-dir", str(data)))
        lineage = train(server.address, "large", LARGE, 3)
        client = stack.enter_context(RawClient(server.address, timeout_s=120))
        stack.callback(end.set)
        client.create_ready("small", JobSpec(SMALL, SGD(0.1), Async()), np.zeros(SMALL.elements, np.float32))
        base, _ = client.pull("small")
        for index in range(STALLED):
            half_a_push(client, "small", f"w{index}", SMALL, base, end)
        half_a_push(client, "large", "w1", LARGE, pb.Version(lineage=lineage, step=3), end)
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stuck = client.call("Pull", pb.PullRequest(job="large"))
        next(stuck)
        started_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        eventually(lambda: not (data / "running").exists(), "everything to be saved", timeout_s=30)
        saved_s = time.monotonic() - started_s
        assert steps_saved(data) == {"large": (3, lineage), "small": (0, base.lineage)}
        assert saved_s < SAVED_S_MAX
        assert server.process.wait(30) == 0
        with ServerProcess("--data-dir", str(data)) as again, RawClient(again.address) as asking:
            for job, (step, was) in steps_saved(data).items():
                now = asking.call("GetJob", pb.GetJobRequest(job=job))
                assert (now.header.step, now.header.lineage) == (step, was)
                assert now.history[-1].change == "restored"


def test_what_was_answered_is_saved_and_the_rest_is_refused(data: Path) -> None:
    with ServerProcess("--data-dir", str(data)) as server, RawClient(server.address) as client:
        client.create_ready("j", JobSpec(SMALL, Adam(0.1), Sync(2)), np.zeros(SMALL.elements, np.float32))
        server.process.send_signal(signal.SIGTERM)

        joined: list[int] = []

        def join_for_ever() -> None:
            while True:
                joined.append(client.join("j", f"w{len(joined)}").epoch)

        with pytest.raises(grpc.RpcError) as refused:
            join_for_ever()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(30) == 0
    (manifest,) = data.glob("*/*/manifest.json")
    live = json.loads(manifest.read_text())["state"]["members"]["live"]
    assert sorted(epoch for _, epoch, _ in live) == joined, "who was told that it is a member is one"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_ends_it_saves(data: Path, number: signal.Signals) -> None:
    with ServerProcess("--data-dir", str(data)) as server:
        train(server.address, "j", SMALL, 2)
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
    assert steps_saved(data)["j"][0] == 2
    assert not (data / "running").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_other_signals_do_nothing(number: signal.Signals) -> None:
    with ServerProcess() as server:
        server.process.send_signal(number)
        train(server.address, "j", SMALL, 1)
        assert server.terminate() == 0


def test_a_second_signal_leaves_out_the_grace(data: Path) -> None:
    """With a call open and half a minute of grace the process is gone soon; what was to be saved is."""
    with ServerProcess("--data-dir", str(data), "--drain-s-max", "30") as server:
        train(server.address, "j", SMALL, 2)
        with grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            next(watch)
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: not (data / "running").exists(), "everything to be saved")
            started_s = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
            assert time.monotonic() - started_s < 10
    assert steps_saved(data)["j"][0] == 2


def test_signals_that_come_at_once_lose_nothing(data: Path) -> None:
    with ServerProcess("--data-dir", str(data)) as server:
        train(server.address, "j", SMALL, 2)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
    assert steps_saved(data)["j"][0] == 2


@pytest.mark.parametrize(
    ("more", "end_s_max"),
    [
        pytest.param([signal.SIGTERM], 20.0, marks=pytest.mark.long, id="ten seconds after the second"),
        pytest.param([signal.SIGTERM, signal.SIGINT], 5.0, id="with the third"),
    ],
)
def test_a_disk_that_hangs_stops_no_update_and_keeps_nobody_from_ending(
    more: list[signal.Signals], end_s_max: float, data: Path, tmp_path: Path
) -> None:
    """Snapshots that were given up hang, and the last one: signals end it, and it says what is not saved."""
    sign = tmp_path / "wedged"
    program = ("tests.support.wedged_disk", str(sign))
    layout = Layout((Tensor("w", (1_200_000,)),))  # updated on threads
    gradient = {"w": np.ones(layout.elements, np.float32)}
    with ServerProcess("--data-dir", str(data), program=program) as server, RawClient(server.address) as client:
        lineage = train(server.address, "j", layout, 1)
        with optimd.connect(server.address, job="j", worker="w0") as worker:
            worker.snapshot()
            sign.touch()
            saves = [client.start("CreateSnapshot", pb.CreateSnapshotRequest(job="j")) for _ in range(12)]
            worker.pull()
            for save in saves:
                save.cancel()
            for step in range(2, 5):
                assert worker.step(gradient).global_step == step
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # it must not be over by itself: there is no event to wait for
            assert server.process.poll() is None
            for number in more:
                server.process.send_signal(number)
            assert server.process.wait(end_s_max) == 1
        assert server.process.stderr is not None
        assert server.process.stderr.read().decode().splitlines()[-1].endswith("not saved: j")
    assert steps_saved(data) == {"j": (1, lineage)}
    with ServerProcess("--data-dir", str(data)) as server, RawClient(server.address) as client:
        assert client.call("GetJob", pb.GetJobRequest(job="j")).history[-1].change == "restored with loss"
