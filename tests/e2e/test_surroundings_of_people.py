"""Workers as programs use them: beside child processes, interrupted, never closed, from an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import optimd
import pytest

from tests.support.servers import ThreadServer

ELEMENTS = 50_000
GRADIENT = {"w": np.ones(ELEMENTS, np.float32)}
# What an interpreter may take to start and end on a busy machine.
END_S_MAX = 30.0

OPENING = f"""
import os, subprocess, sys, threading
import numpy as np
import optimd
worker = optimd.connect(sys.argv[1], job="j", worker="w0", timeout_s=20)
gradient = {{"w": np.ones({ELEMENTS}, np.float32)}}
worker.ensure_job({{"w": np.zeros({ELEMENTS}, np.float32)}}, optimd.SGD(1.0), optimd.Sync(int(sys.argv[2])))
worker.pull()
"""
FORKS = """
def fork():
    for _ in range(20):
        subprocess.run(["true"], check=True)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
helper = threading.Thread(target=fork)
helper.start()
steps = 0
while helper.is_alive() or steps < 20:
    assert worker.step(gradient).status == "applied"
    steps += 1
assert worker.pull()["w"][0] == -steps
worker.leave()
worker.close()
"""
ENDS = {
    "falls off its end": ("worker.step(gradient)", 0, ""),
    "exits": ("worker.step(gradient); sys.exit(3)", 3, ""),
    "raises": ("worker.step(gradient); raise ValueError('mine')", 1, "ValueError: mine"),
    "ends while a thread waits": (
        "threading.Thread(target=worker.step, args=(gradient,), daemon=True).start(); sys.exit(4)",
        4,
        "",
    ),
}


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer() as server:
        yield server


def script(text: str, address: str, workers: int = 1, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPENING + text, address, str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("support", ["0", "1"])
def test_processes_are_forked_beside_training(server: ThreadServer, support: str) -> None:
    process = script(FORKS, server.address, GRPC_ENABLE_FORK_SUPPORT=support)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_never_closes_its_worker_ends_as_it_says(server: ThreadServer, end: str) -> None:
    text, status, says = ENDS[end]
    workers = 2 if "waits" in end else 1
    process = script(text, server.address, workers)
    _, errors = process.communicate(timeout=END_S_MAX)
    assert process.returncode == status, errors
    assert says in errors
    assert says or not errors


def test_an_interrupt_ends_a_wait_and_the_next_step_finds_out(server: ThreadServer) -> None:
    text = """
print("steps", flush=True)
try:
    worker.step(gradient)
except KeyboardInterrupt:
    print("interrupted", flush=True)
result = worker.step(gradient)
print(result.status, result.reason, float(result.parameters["w"][0]), flush=True)
worker.leave()
"""
    process = script(text, server.address, workers=2)
    assert process.stdout is not None
    with optimd.connect(server.address, job="j", worker="w1") as other:
        assert process.stdout.readline() == "steps\n"
        other.pull()
        other._membership.join()
        while "w0" in other.status().waiting_for:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        before_s = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - before_s < 5.0
        assert other.step(GRADIENT).status == "applied"
        # The interrupted push was the round's; the next one was computed before that round.
        assert process.stdout.readline() == "discarded late -1.0\n"
    process.communicate(timeout=END_S_MAX)


def test_steps_from_an_event_loop_go_to_whatever_thread(server: ThreadServer) -> None:
    async def train() -> set[int]:
        threads = set()

        def step() -> str:
            threads.add(threading.get_ident())
            return worker.step(GRADIENT).status

        for _ in range(50):
            pending = asyncio.create_task(asyncio.to_thread(threading.Event().wait, 0.001))
            assert await asyncio.to_thread(step) == "applied"
            await pending
        return threads

    with optimd.connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        assert len(asyncio.run(train())) > 1
        assert worker.pull()["w"][0] == -50.0
