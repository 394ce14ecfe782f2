"""The server as a child: its log is passed on and kept in part, its end is told, it survives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
from optimd.ray.child import LOG_BYTES_KEPT, Child

from tests.e2e.scene import eventually


def child(program: str) -> Child:
    return Child([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("program", "end"),
    [
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL (exit status 137)"),
        ("raise SystemExit(200)", "ended with exit status 200"),
        ("input()", "ended with exit status 1"),
    ],
)
def test_its_end_is_told(program: str, end: str) -> None:
    run = child(program)
    run.stop(30)
    assert run.end == end


def test_one_that_does_not_end_in_time_is_killed() -> None:
    run = child("print('ready', flush=True)\nwhile True: pass")
    assert run.first_line(30) == "ready\n"
    run.stop(0.1)
    assert run.status == 137


def test_one_that_says_nothing_in_time_is_killed() -> None:
    run = child("while True: pass")
    assert run.first_line(0.1) == ""
    assert run.ended.wait(30)


def test_its_log_goes_on_and_only_the_end_of_it_is_kept(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    lines = LOG_BYTES_KEPT // 8
    run = child(f"import sys\nfor i in range({lines}): print(f'line {{i:6d}}', file=sys.stderr)")
    assert run.ended.wait(60)
    assert run.log.startswith("line ")
    assert run.log.endswith(f"line {lines - 1:6d}\n")
    assert len(run.log) <= LOG_BYTES_KEPT
    assert capfdbinary.readouterr().err.count(b"line ") == lines


def test_it_ends_in_order_when_its_owner_and_all_the_owners_children_are_killed(tmp_path: Path) -> None:
    """As Ray does with an actor."""
    program = f"""
import sys, time
from optimd.ray.child import Child
saves = "import sys; print(1, flush=True); sys.stdin.read(); open(sys.argv[1], 'w')"
run = Child([sys.executable, "-c", saves, {str(tmp_path / "saved")!r}])
run.first_line(30)
print(run._process.pid, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert owner.stdout is not None
    shell = int(owner.stdout.readline())
    os.kill(shell, signal.SIGKILL)
    os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate(timeout=30)
    eventually((tmp_path / "saved").exists, "it to end in order", timeout_s=30)
