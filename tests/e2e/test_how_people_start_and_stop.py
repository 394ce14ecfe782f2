"""How people start and stop what trains: exit status, what is said, what the server knows of it, and the parameters."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optimd
import pytest
from optimd_server.core.sync import SyncRounds
from optimd_server.runtime import ServerConfig

from tests.e2e.programs import Row
from tests.e2e.rows_starts import AMID, FOREVER, STARTED, STOPPED
from tests.e2e.scene import eventually
from tests.support.servers import ServerProcess, ThreadServer

ROWS = {**STARTED, **STOPPED}
# What an interpreter may take to start and end on a busy machine.
END_S_MAX = 30.0
# From its stop on.
STOP_S_MAX = 10.0


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=2, lease_s=9.0)) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ThreadServer]:
    """As if on another machine: payloads travel in messages."""
    with ThreadServer(ServerConfig(threads=2, shared_memory=False)) as running:
        yield running


def fate_of(server: ThreadServer, job: str, worker: str) -> str:
    """What the server knows of it."""
    machine = server.host(job).machine
    if server.on_loop(lambda: any(member.worker == worker for member in machine.state.members)):
        return "silent"
    if not isinstance(machine.rounds, SyncRounds):
        return "gone"
    return "left" if worker in machine.rounds.left else "failed"


@pytest.mark.parametrize("name", ROWS)
def test_how_a_program_is_started_and_stopped(name: str, server: ThreadServer, tmp_path: Path) -> None:
    check(name, ROWS[name], server, tmp_path)


@pytest.mark.parametrize("name", AMID)
def test_amid_what_a_program_runs(name: str, elsewhere: ThreadServer, tmp_path: Path) -> None:
    if "setpriv" not in AMID[name].shell:
        check(name, AMID[name], elsewhere, tmp_path)
        return
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        check(name, AMID[name], elsewhere, Path(folder))


def check(name: str, row: Row, server: ThreadServer, folder: Path) -> None:
    job, notes = re.sub(r"\W", "-", name), folder / "notes"
    program = row.start(folder, [server.address, job, str(notes)])
    limit_s = END_S_MAX
    if row.stop is not None:
        program.wait_ready()
        row.stop(program)
        limit_s = STOP_S_MAX
    status, said = program.end(limit_s)
    assert status == row.status, said
    assert re.fullmatch(row.says, said), said
    assert {worker: fate_of(server, job, worker) for worker in row.fates} == row.fates
    acknowledged, applied = len(notes.read_bytes()), -server.vectors(job)[0]
    assert acknowledged >= row.least
    assert (applied == applied[0]).all()
    assert acknowledged <= applied[0] <= acknowledged + (row.stop is not None)


def test_an_interrupt_ends_a_wait_and_the_next_step_finds_out(server: ThreadServer, tmp_path: Path) -> None:
    row = Row("""
worker = connect()
begin(worker, optimd.Sync(2))
print("ready", flush=True)
try:
    worker.step(ONES)
except KeyboardInterrupt:
    print("ready", flush=True)
result = worker.step(ONES)
assert (result.status, result.reason, result.parameters["w"][0]) == ("discarded", "late", -1.0)
worker.leave()
worker.close()
""")
    program = row.start(tmp_path, [server.address, "interrupted", ""])
    with optimd.connect(server.address, job="interrupted", worker="w1") as other:
        program.wait_ready()
        other.pull()
        other._membership.join()
        eventually(lambda: "for w1" in other.status().waiting_for, "it to wait")
        program.process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        program.wait_ready()
        assert time.monotonic() - began_s < 5.0
        # The interrupted push is the round's; the next one was computed before that round.
        assert other.step({"w": np.ones(3, np.float32)}).status == "applied"
        assert program.end(END_S_MAX)[0] == 0


@pytest.mark.parametrize("comes_back", [True, False])
def test_the_server_ends_while_a_program_trains(comes_back: bool, tmp_path: Path) -> None:
    row = Row(FOREVER, environment={"TIMEOUT_S": "20" if comes_back else "1"})
    saved, notes = ("--data-dir", str(tmp_path / "saved")), tmp_path / "notes"
    with ServerProcess(*saved) as server:
        program = row.start(tmp_path, [server.address, "j", str(notes)])
        program.wait_ready()
        assert server.terminate() == 0
    if comes_back:
        with ServerProcess(*saved, port=int(server.address.rpartition(":")[2])) as again:
            before = notes.stat().st_size
            eventually(lambda: notes.stat().st_size > before + 3, "it to go on", timeout_s=30)
            program.process.send_signal(signal.SIGINT)
            status, said = program.end(STOP_S_MAX)
            with optimd.connect(again.address, job="j", observer=True) as observer:
                applied = -observer.pull()["w"][0]
        assert status == -signal.SIGINT
        assert notes.stat().st_size <= applied <= notes.stat().st_size + 1
    else:
        status, said = program.end(STOP_S_MAX)
        assert status == 1
        assert re.search(r"optimd(pb)?\.errors\.(OutcomeUnknown|ServerUnavailable): .*", said.splitlines()[-1])
