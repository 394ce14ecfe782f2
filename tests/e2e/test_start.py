"""The start: what can fail fails before anything slow, and until everything is restored the port says so."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import optimd
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from optimd_server.runtime import Runtime, ServerConfig
from optimd_server.service import Service
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, reason_of
from tests.support.servers import ServerProcess

# A start that has to compile takes ten times as long on this machine.
FAST_S = 12.0


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is compiled yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "optimd_server", "serve", "--listen", "127.0.0.1:0", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_until_everything_is_ready_calls_are_refused_and_health_says_so() -> None:
    async def main() -> None:
        port, goes_on = free_port(), asyncio.Event()
        service = Service(Runtime(ServerConfig(threads=1)))

        async def prepare() -> None:
            await goes_on.wait()

        starting = asyncio.create_task(service.start("127.0.0.1", port, prepare))
        await asyncio.to_thread(look, f"127.0.0.1:{port}", "STARTING_UP", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert not starting.done()
        goes_on.set()
        assert await starting == port
        await asyncio.to_thread(look, f"127.0.0.1:{port}", "", health_pb2.HealthCheckResponse.SERVING)
        await service.stop()

    def look(address: str, reason: str, health: int) -> None:
        with RawClient(address) as client, grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(20)
            found = ""
            try:
                client.call("GetServerInfo", pb.GetServerInfoRequest())
            except grpc.RpcError as error:
                found = reason_of(error)[0]
            assert found == reason
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health

    asyncio.run(main())


@pytest.mark.usefixtures("cold")
def test_a_directory_that_cannot_be_used_is_said_at_once_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (Path("/proc/nothing"), file, file / "below"):
        with started("--data-dir", str(place)) as server:
            out, said = server.communicate(timeout=FAST_S)
        assert (server.returncode, out) == (1, "")
        assert said.splitlines()[-1].startswith("optimd serve: ")
        assert str(place) in said.splitlines()[-1]
        assert "Traceback" not in said


@pytest.mark.usefixtures("cold")
def test_a_port_in_use_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with started("--listen", f"127.0.0.1:{taken.getsockname()[1]}") as server:
            _, said = server.communicate(timeout=FAST_S)
    assert server.returncode == 1
    assert "cannot listen on 127.0.0.1" in said.splitlines()[-1]


IMPORTS = """
import sys
from optimdpb.program import main
status = main(["serve", *sys.argv[1:]])
print(status, *(name for name in ("numba", "grpc") if name in sys.modules))
"""


@pytest.mark.parametrize("wrong", ["option", "file", "port", "privileged", "directory", "locked"])
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(wrong: str, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "optimd.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (tmp_path / "optimd.toml").write_text("thread = 1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments, loaded, says = {
            "option": (["--threads", "0"], "2", "--threads: expected a whole number"),
            "file": (["--config", str(tmp_path / "optimd.toml")], "2", "did you mean threads?"),
            "port": (["--listen", f"127.0.0.1:{port}"], "1", f"cannot listen on 127.0.0.1:{port}"),
            "privileged": (["--listen", "192.0.2.1:0", "--insecure"], "1", "cannot listen on 192.0.2.1:0"),
            "directory": (["--data-dir", "/proc/nothing"], "1 numba", "/proc/nothing"),
            "locked": (["--data-dir", str(tmp_path)], "1 numba", "is in use by another server"),
        }[wrong]
        command = [sys.executable, "-c", IMPORTS, "--listen", "127.0.0.1:0", *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    os.close(lock)
    assert run.stdout.strip() == loaded
    assert run.stderr.startswith("optimd serve: ")
    assert says in run.stderr


# Kernels that take for ever, from the third on.
COMPILES_FOR_EVER = """
import sys, threading
from optimd_server import serving, progress
from optimdpb.program import main

def compile_kernels(tell):
    for number in range(1, 4):
        tell(f"Rule{number}", number, 20)
    threading.Event().wait()

serving.compile_kernels, progress.INTERVAL_S = compile_kernels, 0.0
sys.exit(main(["serve", "--listen", "127.0.0.1:0"]))
"""


def test_kernels_that_are_compiled_are_counted_in_the_log() -> None:
    command = [sys.executable, "-c", COMPILES_FOR_EVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        while "compiling kernels: Rule3, 3 of 20" not in (line := server.stderr.readline()):
            assert line, "it ended before"
            assert "\x1b" not in line
        server.send_signal(signal.SIGTERM)
        assert server.wait(FAST_S) == 0


def test_kernels_that_are_compiled_are_counted_on_a_terminal_which_is_given_back() -> None:
    main_end, own_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-c", COMPILES_FOR_EVER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=own_end) as server:
        os.close(own_end)
        shown = ""
        while "Rule3" not in shown:
            shown += os.read(main_end, 4096).decode()
        assert "compiling kernels" in shown
        assert "2/20" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # as Linux says that nobody has the other end any more
            while more := os.read(main_end, 4096):
                shown += more.decode()
        assert server.wait(FAST_S) == 0
    os.close(main_end)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is shown again"


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_compiles_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with started("--data-dir", str(tmp_path / "data")) as server:
        assert server.stderr is not None
        while "compiling kernels" not in (line := server.stderr.readline()):
            assert line, "it ended before it compiled"
        server.send_signal(number)
        assert server.wait(FAST_S) == 0
        assert server.stdout is not None
        assert server.stdout.read() == ""
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["optimd.lock"]


def test_a_start_that_fails_costs_nothing(tmp_path: Path) -> None:
    """An orderly end, a start on a port in use, and the next start goes on as if that had not been."""
    data = tmp_path / "data"
    with ServerProcess("--data-dir", str(data)) as server:
        with optimd.connect(server.address, job="j", worker="w0") as worker:
            worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
            lineage = worker.status().lineage
        assert server.terminate() == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with started("--data-dir", str(data), "--listen", f"127.0.0.1:{taken.getsockname()[1]}") as failing:
            failing.communicate(timeout=60)
        assert failing.returncode == 1
    with ServerProcess("--data-dir", str(data)) as server, RawClient(server.address) as client:
        job = client.call("GetJob", pb.GetJobRequest(job="j"))
        assert (job.header.lineage, job.history[-1].change) == (lineage, "restored")


def test_a_hangup_that_nohup_ignores_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = ServerProcess()
    finally:
        signal.signal(signal.SIGHUP, before)
    with server, RawClient(server.address) as client:
        server.process.send_signal(signal.SIGHUP)
        client.call("GetServerInfo", pb.GetServerInfoRequest())
        assert server.process.poll() is None


def test_a_directory_that_fails_behind_the_port_ends_the_start(tmp_path: Path) -> None:
    """The mark that a server serves from it cannot be made."""
    (tmp_path / "running").mkdir()
    with started("--data-dir", str(tmp_path)) as server:
        out, said = server.communicate(timeout=60)
    assert (server.returncode, out) == (1, "")
    assert said.splitlines()[-1] == f"optimd serve: [Errno 21] Is a directory: '{tmp_path / 'running'}'"


def test_who_watches_health_and_takes_nothing_holds_up_neither_start_nor_end(tmp_path: Path) -> None:
    """Such a watcher holds a lock inside of the health service."""

    async def main() -> None:
        service = Service(Runtime(ServerConfig(threads=1, data_dir=tmp_path)))
        async with service._health._server_watchers[""]:
            async with asyncio.timeout(20):
                await service.start("127.0.0.1", 0)
                assert (tmp_path / "running").exists()
                await service.stop()
        assert not (tmp_path / "running").exists()

    asyncio.run(main())


# A push that is answered between the first call that is taken and the end of the start, then SIGTERM.
SERVED_BEFORE_THE_START_HAS_ENDED = """
import asyncio, os, signal, sys
import numpy as np
import optimd
from grpc_health.v1 import health_pb2
from optimd_server.service import app
from optimdpb.program import main

bind, set_health = app.Service._bind, app.Service._set_health

async def noting_bind(self, host, port):
    self.port = await bind(self, host, port)
    return self.port

def push(port):
    worker = optimd.connect(f"127.0.0.1:{port}", job="j", worker="w")
    worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(lr=0.1), optimd.Async())
    worker.pull()
    print(worker.push({"w": np.ones(4, np.float32)}).status, flush=True)

async def slow_set_health(self, status):
    if status == health_pb2.HealthCheckResponse.SERVING:
        await asyncio.to_thread(push, self.port)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.2)
    await set_health(self, status)

app.Service._bind, app.Service._set_health = noting_bind, slow_set_health
sys.exit(main(["serve", "--listen", "127.0.0.1:0", "--data-dir", sys.argv[1]]))
"""


def test_what_is_served_while_the_start_still_ends_is_saved(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVED_BEFORE_THE_START_HAS_ENDED, str(tmp_path)]
    server = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert (server.returncode, server.stdout.splitlines()[0]) == (0, "applied"), server.stderr
    assert not (tmp_path / "running").exists()
    assert [path.name for path in tmp_path.glob("j-*/*-step-*")] == ["00000001-step-1"]
