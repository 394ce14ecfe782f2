"""Workers of all kinds killed and started again for minutes: nothing grows, and the state is that of one process.

Shared memory in place and with copies, streams by hand; Sync, Async and Ssp. Afterwards the event log and the numbers
of the gradients are replayed in this process: parameters and slots are the same to the last bit.
"""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from optimd_server.core.effects import Apply
from optimd_server.core.events import PushCommitted
from optimd_server.core.log import event_of
from optimd_server.runtime.eventlog import read_event_log
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.threads import KernelThreads
from optimdpb.codec import job_spec_to_proto
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb
from safetensors.numpy import load_file

from tests.e2e.scene import eventually
from tests.support import mixed
from tests.support.calls import RawClient
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.alone

KINDS = ("in place", "copies", "by hand")
SAMPLE_S = 1.0


@dataclass(frozen=True)
class Sample:
    """A process as the kernel sees it."""

    resident_bytes: int
    threads: int
    descriptors: int
    memfds: int


def sample(pid: int) -> Sample:
    """Of a running process."""
    folder = Path(f"/proc/{pid}")
    status = (folder / "status").read_text()
    field = lambda name: int(status.partition(f"{name}:")[2].split()[0])  # noqa: E731
    maps = {line.split()[4] for line in (folder / "maps").read_text().splitlines() if "/memfd:optimd" in line}
    return Sample(field("VmRSS") * 1024, field("Threads"), len(list((folder / "fd").iterdir())), len(maps))


class Load:
    """Nine workers, each of a job and a kind; trouble() kills one and starts it again."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._dice = random.Random(5)
        self._starts = 0
        self._workers = {f"{job}-{kind}".replace(" ", "_"): (job, kind) for job in mixed.MODELS for kind in KINDS}
        self._processes = {name: self._start(name) for name in self._workers}
        self.killed = 0

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self._starts += 1
        job, kind = self._workers[name]
        command = [sys.executable, "-m", "tests.support.mixed", self._address, job, name, kind, str(self._starts)]
        return subprocess.Popen(command, stderr=subprocess.PIPE)

    def trouble(self) -> None:
        """One is killed, whatever it does, and comes back."""
        name = self._dice.choice(list(self._workers))
        process = self._processes[name]
        process.kill()
        _, said = process.communicate(timeout=30)
        # Who pushes by hand does not join again after an ended lease, and one that came back fences its elder.
        expected = process.returncode == -signal.SIGKILL or "by_hand" in name
        assert expected, f"{name} had ended by itself:\n{said.decode()[-2000:]}"
        self._processes[name] = self._start(name)
        self.killed += 1

    def end(self) -> None:
        """Kill them all."""
        for process in self._processes.values():
            process.kill()
            process.communicate(timeout=30)


def replayed(log: Path, job: str) -> tuple[int, ShardGroup]:
    """The job's updates made again in this process, from its event log alone."""
    machine, entries = read_event_log(log)
    spec = mixed.spec_of(job)
    assert job_spec_to_proto(spec) == job_spec_to_proto(machine.state.spec)
    group = ShardGroup(spec, machine.state.plan, 1, 1, 1 << 20)
    group.shards[0].parameters[:] = mixed.START
    updates, numbers = 0, {}
    for now_s, plain in entries:
        event = event_of(plain)
        if isinstance(event, PushCommitted):
            push = event.push
            assert push.loss is not None
            numbers[push.worker, push.epoch, push.seq] = int(push.loss)
        try:
            effects = machine.handle(event, now_s)
        except Refused:
            continue
        for command in (effect for effect in effects if isinstance(effect, Apply)):
            for part in command.contributions:
                group.adopt(part.worker, part.epoch, mixed.gradient(numbers.pop((part.worker, part.epoch, part.seq))))
            group.apply(command, KernelThreads.run_inline)
            updates += 1
    return updates, group


def step_of(client: RawClient, job: str) -> int:
    step: int = client.call("GetJob", pb.GetJobRequest(job=job)).header.step
    return step


def load(seconds: float, tmp_path: Path) -> list[Sample]:
    arguments = ["--event-log", str(tmp_path / "log"), "--data-dir", str(tmp_path / "data"), "--lease-s", "2"]
    server = ServerProcess(*arguments)
    samples: list[Sample] = []
    with RawClient(server.address) as client:
        for job in mixed.MODELS:
            client.create_ready(job, mixed.spec_of(job), mixed.START)
        running = Load(server.address)
        try:
            eventually(lambda: all(step_of(client, job) > 10 for job in mixed.MODELS), "updates of every job", 60)
        except BaseException:
            running.end()
            server.stop()
            raise
    until_s, dice = time.monotonic() + seconds, random.Random(6)
    next_sample_s = 0.0
    try:
        while time.monotonic() < until_s:
            time.sleep(dice.uniform(0.1, 0.5))
            if dice.random() < 0.5:
                running.trouble()
            if time.monotonic() >= next_sample_s:
                samples.append(sample(server.process.pid))
                next_sample_s = time.monotonic() + SAMPLE_S
    finally:
        running.end()
        assert server.terminate() == 0
    for job in mixed.MODELS:
        (log,) = (tmp_path / "log").glob(f"{job}-*.jsonl")
        updates, group = replayed(log, job)
        (saved,) = (tmp_path / "data").glob(f"{job}-*/*/*.safetensors")
        vectors = load_file(saved)
        assert updates > 10
        for name, vector in zip(("param", "adam.exp_avg", "adam.exp_avg_sq"), group.shards[0].vectors, strict=True):
            served = np.concatenate([vectors[f"{name}/{tensor}"].ravel() for tensor in ("w", "b")])
            assert served.tobytes() == vector.tobytes(), f"{job}: {name} after {updates} updates"
        print(f"{job}: {updates} updates the same to the bit; {running.killed} workers killed")
    return samples


def test_seconds(tmp_path: Path) -> None:
    load(6.0, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_half_an_hour(tmp_path: Path) -> None:
    samples = load(1800.0, tmp_path)
    early, late = samples[len(samples) // 5 : len(samples) // 2], samples[-len(samples) // 4 :]
    for name in ("resident_bytes", "threads", "descriptors", "memfds"):
        before = statistics.median(getattr(each, name) for each in early)
        after = statistics.median(getattr(each, name) for each in late)
        print(f"{name}: {before} early, {after} late, at most {max(getattr(each, name) for each in samples)}")
        assert after <= 1.05 * before + 2, f"{name} grows"
