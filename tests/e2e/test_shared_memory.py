"""Shared memory between real processes: chosen by itself, left by itself, the same bits, and nothing behind."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig, sharing
from optimd_server.service import handover
from optimd_server.state import shared as server_memory
from optimdpb.specs import Adam, JobSpec, Sync
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually
from tests.e2e.shared import LAYOUT, START, config, gradient, in_place, joined, named, shares
from tests.support.servers import ServerProcess, ThreadServer
from tests.support.trainer import Trainer


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(config()) as running:
        yield running


def transport_of(worker: optimd.Worker) -> tuple[str, str]:
    """As the server knows it, once the next heartbeat has told it."""
    told: list[tuple[str, str]] = []

    def has_told() -> bool:
        told[:] = [(each.transport, each.transport_detail) for each in worker.status().workers]
        return bool(told[0][0])

    eventually(has_told, "a heartbeat")
    return told[0]


def memfds(*workers: str) -> int:
    """Pieces of memory of these workers of job j that this process has mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    names = [f"/memfd:optimd:j:{worker} " for worker in workers]
    return len({line.split()[4] for line in maps if any(name in line for name in names)})


def test_it_is_chosen_by_itself_and_status_says_so(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        assert shares(worker)
        assert transport_of(worker) == ("shared_memory", "on the server's own machine")


def no_memory(*_: Any, **__: Any) -> Any:
    raise OSError(12, "Cannot allocate memory")


def unsealed(descriptor: int, command: int, *arguments: int) -> int:
    return 0 if command == fcntl.F_ADD_SEALS else fcntl.fcntl(descriptor, command, *arguments)


class NoSeals:
    """fcntl without an effect on seals."""

    F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL
    F_ADD_SEALS = fcntl.F_ADD_SEALS
    fcntl = staticmethod(unsealed)


WITHOUT: list[tuple[str, ServerConfig, tuple[Any, str, Any] | None, str, str]] = [
    ("switched off", config(shared_memory=False), None, "grpc", "told so"),
    ("a small model", config(inline_bytes_max=1 << 20), None, "unix_socket", "travel in the call itself"),
    ("no room", config(staging_bytes_max=LAYOUT.size_bytes * 2 - 1), None, "unix_socket", "which is taken"),
    ("forbidden", config(), (os, "memfd_create", no_memory), "unix_socket", "no memory to share"),
    ("full", config(), (sharing.JobSharing, "make", None), "unix_socket", "no memory to share"),
    ("no unix socket", config(), (handover.Handover, "start", lambda self: None), "grpc", "no unix socket"),
    ("memory without seals", config(), (server_memory, "fcntl", NoSeals), "unix_socket", "sealed with"),
    ("handed over too late", config(), (handover, "TOKEN_S", 0.0), "grpc, unix_socket", ""),
]


@pytest.mark.parametrize(
    ("settings", "patched", "path", "why"), [row[1:] for row in WITHOUT], ids=[row[0] for row in WITHOUT]
)
def test_without_it_everything_goes_on(
    settings: ServerConfig, patched: tuple[Any, str, Any] | None, path: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits in messages, and status says why."""
    if patched is not None:
        target, name, value = patched
        if name == "make":
            full = lambda self, worker: (_ for _ in ()).throw(  # noqa: E731
                optimd.Refused("SHARED_MEMORY_UNAVAILABLE", "the server's machine has no memory to share: full")
            )
            value = full
        monkeypatch.setattr(target, name, value)
    expected = Trainer(JobSpec(LAYOUT, Adam(0.01), Sync(1)), START)
    with ThreadServer(settings) as server, joined(server.address) as worker:
        assert not shares(worker)
        for step in range(3):
            buffers = worker.gradient_buffers()
            for name, values in named(gradient(step)).items():
                buffers[name][...] = values
            result = worker.step(buffers, copy=False)
            expected.update(gradient(step))
        assert b"".join(each.tobytes() for each in result.parameters.values()) == expected.parameters.tobytes()
        said = transport_of(worker)
        assert said[0] in path
        assert why in said[1]


MODELS = [optimd.Async(), optimd.Ssp(3), optimd.Sync(2, quorum=1), optimd.Sync(2, round_timeout_s=0.01, workers_min=1)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__ + str(getattr(model, "quorum", "")))
def test_what_a_worker_reads_in_place_stands_still(server: ThreadServer, model: Any) -> None:
    """Under models in which others go on meanwhile it is a copy."""
    with joined(server.address, "w0", model) as first, joined(server.address, "w1", model) as second:
        held = first.step(named(gradient(0)), copy=False).parameters
        before = {name: values.copy() for name, values in held.items()}
        for step in range(3):
            second.pull()
            second.push(named(gradient(step, 1)))
        assert second.status().global_step > 1
        assert all(np.array_equal(held[name], before[name]) for name in before)
        assert not held["w"].flags.writeable
        fresh = first.pull(copy=False)
        assert not np.array_equal(fresh["w"], before["w"])


def test_in_sync_nothing_is_copied(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        first = worker.step(named(gradient(0)), copy=False).parameters["w"]
        second = worker.step(named(gradient(1)), copy=False).parameters["w"]
        assert second is first, "the memory of the server itself"
        assert worker.step(named(gradient(2))).parameters["w"].flags.writeable


def test_nothing_is_left_when_workers_go(server: ThreadServer) -> None:
    """Left, expired and superseded: the server has the job's own memory again."""
    names = ("leaver", "silent", "twice")
    left, silent = joined(server.address, "leaver", optimd.Sync(1)), joined(server.address, "silent", optimd.Sync(1))
    superseded = joined(server.address, "twice", optimd.Sync(1))
    again = joined(server.address, "twice", optimd.Sync(1))
    assert memfds(*names) >= 2 * 3
    left.leave()
    again.leave()
    keeper = silent._membership._keeper
    assert keeper is not None
    keeper.stop()
    sharing_now = server.host("j").sharing
    eventually(lambda: server.on_loop(lambda: sharing_now.workers) == 0, "memory to be forgotten")
    for worker in (left, silent, superseded, again):
        worker.close()
    del left, silent, superseded, again, worker
    eventually(lambda: memfds(*names) == 0, "memory to be freed")


WORKER = """
import sys, time, numpy as np, optimd
worker = optimd.connect(sys.argv[1], job="j", worker="doomed")
elements = int(sys.argv[2])
worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(1.0), optimd.Sync(2, workers_min=1))
worker.pull(copy=False)
buffers = worker.gradient_buffers()
assert worker._membership.memory is not None
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[3] == "writes":
    print("writes", flush=True)
    while True:
        buffers["w"][...] = np.nan
buffers["w"][...] = 1.0
print("pushes", flush=True)
worker.push(buffers)
"""


def doomed(address: str, elements: int, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, address, str(elements), what]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() in ("writes\n", "pushes\n")


def test_a_worker_killed_while_it_writes_has_pushed_nothing(server: ThreadServer) -> None:
    elements = 1_000_000
    process = doomed(server.address, elements, "writes")
    model = optimd.Sync(2, workers_min=1)
    with process, optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(1.0), model)
        worker.pull()
        go(process)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        result = worker.step({"w": np.full(elements, 2.0, np.float32)})
        assert (result.status, result.world_size) == ("applied", 1)
        assert (result.parameters["w"] == -2.0).all()


@pytest.mark.parametrize("delay_s", [0.0, 0.02])
def test_a_worker_killed_while_its_gradient_is_read_counts_whole_or_not_at_all(
    server: ThreadServer, delay_s: float
) -> None:
    elements = 10_000_000
    process = doomed(server.address, elements, "pushes")
    model = optimd.Sync(2, workers_min=1)
    with process, optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(1.0), model)
        worker.pull()
        go(process)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        result = worker.step({"w": np.full(elements, 3.0, np.float32)})
        assert result.status == "applied"
        (value,) = set(np.unique(result.parameters["w"]).tolist())
        assert value in (-2.0, -3.0), "the mean of both, or the one alone"


def test_a_server_killed_while_its_memory_is_read() -> None:
    server = ServerProcess("--lease-s", "2")
    try:
        worker = joined(server.address, timeout_s=0.5)
        assert shares(worker)
        held = worker.step(named(gradient(0)), copy=False).parameters
        before = held["w"].copy()
        server.process.kill()
        server.process.wait()
        assert np.array_equal(held["w"], before)
        with pytest.raises((optimd.ServerUnavailable, optimd.OutcomeUnknown)):
            worker.step(named(gradient(1)), copy=False)
        assert np.array_equal(held["w"], before)
        worker.close()
    finally:
        server.process.communicate()


def test_a_server_that_comes_back_makes_its_memory_anew(tmp_path: Path) -> None:
    """Epochs survive an orderly end, memory does not: that push goes by stream, the next in memory again."""
    arguments = ("--data-dir", str(tmp_path))
    expected = Trainer(JobSpec(LAYOUT, Adam(0.01), Sync(1)), START)
    server = ServerProcess(*arguments)
    port = int(server.address.rpartition(":")[2])
    worker = joined(server.address)
    old = worker.gradient_buffers()
    in_place(worker, 0, 0)
    epoch = worker._membership.epoch
    assert server.terminate() == 0
    server = ServerProcess(*arguments, port=port)
    try:
        for name, values in named(gradient(1, 0)).items():
            old[name][...] = values
        assert worker.step(old).global_step == 2
        assert worker._membership.epoch == epoch
        assert not shares(worker)
        result = in_place(worker, 2, 0)
        assert shares(worker)
        for step in range(3):
            expected.update(gradient(step, 0))
        assert result.parameters["w"].tobytes() == expected.parameters[:70_001].tobytes()
        worker.leave()
        worker.close()
    finally:
        server.stop()


def test_a_deadline_in_mid_step_then_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer that the server may still read is not handed out; both pushes count once."""
    server = ServerProcess("--lease-s", "60")
    try:
        monkeypatch.setattr("optimd.session.WAIT_MARGIN_S", 0.3)
        monkeypatch.setattr("optimd.delivery.WAIT_MARGIN_S", 0.3)
        worker = joined(server.address, timeout_s=0.6)
        worker._session.wait_s = 0.2
        first = worker.gradient_buffers()
        for name, values in named(gradient(0)).items():
            first[name][...] = values
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(optimd.OutcomeUnknown):
            worker.step(first)
        second = worker.gradient_buffers()
        assert not np.shares_memory(second["w"], first["w"])
        for name, values in named(gradient(1)).items():
            second[name][...] = values
        server.process.send_signal(signal.SIGCONT)
        result = worker.step(second)
        applied = worker.status().applied
        assert result.global_step == applied
        assert applied in (1, 2)
        expected = Trainer(JobSpec(LAYOUT, Adam(0.01), Sync(1)), START)
        if applied == 2 or result.status == "discarded":
            expected.update(gradient(0))
        if result.status == "applied":
            expected.update(gradient(1))
        assert worker.pull()["w"].tobytes() == expected.parameters[:70_001].tobytes()
        worker.leave()
        worker.close()
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def test_a_worker_that_joined_again_sends_from_its_new_memory(server: ThreadServer) -> None:
    """Its lease ends between two steps: what it wrote to the memory of before counts all the same."""
    with joined(server.address) as worker:
        in_place(worker, 0, 0)
        buffers = worker.gradient_buffers()
        for name, values in named(gradient(1, 0)).items():
            buffers[name][...] = values
        keeper, epoch = worker._membership._keeper, worker._membership.epoch
        assert keeper is not None
        keeper.stop()
        members = server.host("j").machine.state.members
        eventually(lambda: server.on_loop(lambda: len(members)) == 0, "the lease to end")
        result = worker.step(buffers)
        assert worker._membership.epoch > epoch
        assert shares(worker)
        expected = Trainer(JobSpec(LAYOUT, Adam(0.01), Sync(1)), START)
        expected.update(gradient(0, 0))
        expected.update(gradient(1, 0))
        assert result.parameters["w"].tobytes() == expected.parameters[:70_001].tobytes()


def test_the_hand_over_takes_nothing_but_a_good_token(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        name = worker._membership.member.joined.shared_memory.socket  # type: ignore[union-attr]
        request = pb.OpenSharedMemoryRequest(job="j", worker="w0", epoch=worker._membership.epoch)
        offer = worker._session.call("OpenSharedMemory", request)

        def knock(data: bytes) -> list[int]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
                knocking.settimeout(5.0)
                knocking.connect(f"\0{name}")
                knocking.sendall(data)
                knocking.shutdown(socket.SHUT_WR)
                return list(socket.recv_fds(knocking, 1, 8)[1])

        assert knock(b"") == knock(b"short") == knock(bytes(16)) == []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
            slow.connect(f"\0{name}")  # says nothing, and is in nobody's way
            descriptors = knock(offer.token)
            assert len(descriptors) == 3
            for descriptor in descriptors:
                os.close(descriptor)
        assert knock(offer.token) == [], "good once"
        assert worker.step(named(gradient(0))).status == "applied", "what was opened before is gone, the push goes on"
