"""The example workers in Go and C++: built as the page says, and trained beside Python through what may happen."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optimd
import pytest
from optimdpb.v1 import optimd_pb2 as pb

from tests.conformance.plane import ROOT, STEPS, ZEROS, Other, Trained, by_python_alone, work
from tests.e2e.scene import eventually
from tests.support.calls import RawClient
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess

# The first of them builds, on a machine that has other things to do.
pytestmark = pytest.mark.timeout(300)
PAGE = (ROOT / "docs" / "other-languages.md").read_text()
# Of each language: what must be on PATH, and what else must be there.
TOOLS = {
    "go": ("go", "make", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
    "cpp": ("g++", "cmake", "pkg-config", "protoc", "grpc_cpp_plugin"),
}
GO_PACKAGES = Path("/usr/share/gocode/src/google.golang.org/grpc")
# protoc must be the one that came with the system's libraries, not that of a virtual environment.
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join(p for p in os.get_exec_path() if p != str(Path(sys.executable).parent)),
}


def lacks(language: str) -> str:
    """What is absent, in words; empty if nothing is."""
    absent = [tool for tool in TOOLS[language] if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    if language == "go" and not GO_PACKAGES.exists():
        absent.append(str(GO_PACKAGES))
    if language == "cpp" and not absent:
        absent += [] if subprocess.run(["pkg-config", "grpc++"], check=False).returncode == 0 else ["grpc++"]
    return ", ".join(absent)


def command_of_page(language: str) -> str:
    (command,) = re.findall(rf"`([^`]*(?:-C|--build) examples/{language}[^`]*)`", PAGE)
    return str(command)


@pytest.fixture(params=["go", "cpp"])
def example(request: pytest.FixtureRequest) -> Path:
    """The program, built once: what is there already is not built again."""
    language = str(request.param)
    if absent := lacks(language):
        pytest.skip(f"absent: {absent}: the example in {language} is not run")
    build = ROOT / "examples" / language / "build"
    build.mkdir(exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["sh", "-ec", command_of_page(language)], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=250)
    return build / "worker"


# The two make the same decisions; those that take long are tried with one in each `make test`.
slow_for_cpp = pytest.mark.parametrize("example", ["go", pytest.param("cpp", marks=pytest.mark.long)], indirect=True)


@pytest.fixture(scope="module")
def alone() -> Iterator[Trained]:
    with ServerProcess() as server:
        yield by_python_alone(server.address)


def first_of_two(example: Path, address: str, job: str, steps: int = STEPS) -> list[str | Path]:
    return [example, "--job", job, "--worker", "other", "--workers", "2", "--steps", str(steps), address]


def test_together_with_python_it_computes_what_python_does(example: Path, alone: Trained) -> None:
    """Python has made the job: the same specification, and the other finds it."""
    with ServerProcess() as server:
        started: list[Other] = []

        def before_step(step: int) -> None:
            if not started:
                started.append(Other(first_of_two(example, server.address, "made-by-python")))

        assert work(server.address, "made-by-python", before_step=before_step) == alone
        with started[0] as other:
            assert other.trained() == alone
    assert alone.applied == alone.step == STEPS
    assert alone.loss < 1e-4


def test_lost_answers_cut_connections_and_a_restart_change_no_bit(
    example: Path, alone: Trained, tmp_path: Path
) -> None:
    servers = [ServerProcess("--data-dir", str(tmp_path))]
    port = int(servers[0].address.rpartition(":")[2])

    def before_step(step: int) -> None:
        proxy.lost_answers = 0.1 if 20 <= step < 60 else 0.0
        if step in (70, 80):
            proxy.cut()
        if step == 100:
            assert servers[-1].terminate() == 0
            servers.append(ServerProcess("--data-dir", str(tmp_path), port=port))

    predicate = optimd.groups(ZEROS, lambda _, array: array.ndim < 2, weight_decay=0.0)
    try:
        with Proxy(servers[0].address) as proxy, Other(first_of_two(example, proxy.address, "disturbed")) as other:
            assert other.line().startswith("joined disturbed as other")
            python = work(servers[0].address, "disturbed", before_step=before_step, groups=predicate)
            assert other.trained() == python == alone
            assert proxy.answers_lost > 0
    finally:
        for server in servers:
            server.stop()


@slow_for_cpp
def test_a_server_that_was_killed_goes_on_with_it_under_another_lineage(example: Path, tmp_path: Path) -> None:
    """Twice: from a snapshot that knows nothing of its epoch, and from one that does."""
    servers = [ServerProcess("--data-dir", str(tmp_path))]
    port = int(servers[0].address.rpartition(":")[2])
    started: list[Other] = []

    def snapshot() -> None:
        with RawClient(servers[-1].address) as client:
            client.call("CreateSnapshot", pb.CreateSnapshotRequest(job="killed"))

    def kill() -> None:
        servers[-1].process.kill()
        servers.append(ServerProcess("--data-dir", str(tmp_path), port=port))

    def before_step(step: int) -> None:
        match len(servers), step:
            case (1, 0):
                snapshot()
                started.append(Other(first_of_two(example, servers[0].address, "killed")))
            case (1, 20) | (2, 60):
                kill()
            case (2, 40):
                snapshot()

    try:
        python = work(servers[0].address, "killed", before_step=before_step)
        with started[0] as other:
            trained = other.trained()
    finally:
        for server in servers:
            server.stop()
    assert len(servers) == 3
    assert (trained.step, trained.parameters) == (STEPS, python.parameters)
    assert trained.loss < 1e-4


@slow_for_cpp
def test_a_worker_whose_lease_ends_while_its_push_waits_joins_again(example: Path, alone: Trained) -> None:
    """Its round waits for one more live worker, and it for its round."""
    stopped: list[int] = []
    with (
        ServerProcess("--lease-s", "2", "--wait-s-max", "2") as server,
        RawClient(server.address) as client,
        Other(first_of_two(example, server.address, "stopped")) as other,
    ):

        def last_seq() -> int | None:
            """Of its epoch's pushes; None while it is no member."""
            report = client.call("GetJob", pb.GetJobRequest(job="stopped"))
            return next((member.last_seq for member in report.workers if member.worker == "other"), None)

        def before_step(step: int) -> None:
            if step == 10 and not stopped:
                stopped.append(step)
                eventually(lambda: last_seq() == step + 1, "its push of this step to be taken")
                other.process.send_signal(signal.SIGSTOP)
                eventually(lambda: last_seq() is None, "its lease to end")
                other.process.send_signal(signal.SIGCONT)

        other.line()
        python = work(server.address, "stopped", before_step=before_step)
        assert other.trained() == python == alone


def test_an_error_is_told_by_its_reason(example: Path) -> None:
    """The address of the environment is taken where none is given."""
    with ServerProcess() as server, RawClient(server.address) as client:
        with Other(first_of_two(example, server.address, "wrong", steps=5)) as first:
            first.line()
            *command, address = first_of_two(example, server.address, "wrong", steps=6)
            with Other(command, OPTIMD_SERVER=str(address)) as second:
                status, _, err = second.end()
        assert status == 1
        assert err.startswith("JOB_MISMATCH ")
        assert "optimizer.lr.steps: it has 5" in err
        assert client.call("GetJob", pb.GetJobRequest(job="wrong")).spec.steps_max == 5


@pytest.mark.parametrize("build_file", ["go/Makefile", "cpp/CMakeLists.txt"])
def test_ci_installs_what_the_build_file_names(build_file: str) -> None:
    text = re.sub(r"\\\n#?", "", (ROOT / "examples" / build_file).read_text())
    named = re.findall(r"^# +apt-get install (.*)$", text, re.M)
    assert len(named) == 1
    assert set(named[0].split()) <= set((ROOT / ".ci" / "run").read_text().split())
