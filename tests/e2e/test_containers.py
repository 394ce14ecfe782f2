"""Surroundings that are barer than a developer's: no home directory, a system that is no Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.servers import ServerProcess

TRAIN = """
import sys
{before}
import numpy as np
import optimd

with optimd.connect(sys.argv[1], job=sys.argv[2], worker="w0", push_dtype="bfloat16", timeout_s=20) as worker:
    start = {{"w": np.zeros(300_000, np.float32)}}
    worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1))
    worker.pull(copy=False)
    for step in range(1, 4):
        result = worker.step({{"w": np.ones(300_000, np.float32)}}, copy=False)
        assert (result.status, result.global_step) == ("applied", step)
    assert (worker.pull()["w"] == -3).all()
"""
# What Python has on Linux alone.
NO_LINUX = """
import fcntl, mmap, os, socket
for module, names in (
    (os, ["sched_getaffinity", "sched_setaffinity", "memfd_create", "MFD_CLOEXEC", "eventfd", "pidfd_open"]),
    (fcntl, [name for name in dir(fcntl) if "SEAL" in name]),
    (mmap, ["MAP_POPULATE", "MAP_STACK", "MAP_NORESERVE"]),
    (socket, ["SO_PEERCRED", "SO_PASSCRED"]),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
connect = socket.socket.connect
def no_abstract_sockets(self, address):
    if isinstance(address, str) and address.startswith(chr(0)):
        raise FileNotFoundError(2, "No such file or directory")
    return connect(self, address)
socket.socket.connect = no_abstract_sockets
"""


def environment(home: str | None) -> dict[str, str]:
    """As it is, with another home directory or none, and no word on where to keep what."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    return kept if home is None else {**kept, "HOME": home}


def train(server: ServerProcess, job: str, home: str | None = None, before: str = "") -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN.format(before=before), server.address, job],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(home),
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


def test_a_worker_on_a_system_that_is_no_linux_trains_by_grpc(server: ServerProcess) -> None:
    train(server, "elsewhere", os.environ.get("HOME"), NO_LINUX)


def test_a_server_without_a_home_directory_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    with ServerProcess() as server:
        train(server, "j", "/proc/nowhere")
        assert server.stop() == 0
