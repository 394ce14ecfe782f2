"""Programs that train, as people write and start them, and what must be true behind them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# What every program begins with. go() notes each step that was acknowledged; forever() tells when it may be stopped.
OPENING = """\
import asyncio, atexit, contextlib, multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import numpy as np
import optimd
ADDRESS, JOB, NOTES = sys.argv[1:4]
ELEMENTS, PUSH_DTYPE = int(os.environ.get("ELEMENTS", "3")), os.environ.get("PUSH_DTYPE", "float32")
TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "20"))
ONES = {"w": np.ones(ELEMENTS, np.float32)}

def connect(name="w0"):
    return optimd.connect(ADDRESS, job=JOB, worker=name, timeout_s=TIMEOUT_S, push_dtype=PUSH_DTYPE)

def note():
    with open(NOTES, "ab") as notes:
        notes.write(b".")

def begin(worker, model=optimd.Sync(1)):
    worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(1.0), model)
    worker.pull()

def go(worker, steps=3):
    for _ in range(steps):
        assert worker.step(ONES).status == "applied"
        note()

def train(worker, model=optimd.Sync(1)):
    begin(worker, model)
    go(worker)

def forever(worker):
    train(worker)
    print("ready", flush=True)
    go(worker, 10**9)

def with_exit(name="w0"):
    with connect(name) as worker:
        train(worker, optimd.Async())

"""


class Program:
    """A program that runs. `stop` of its row may send it what a terminal or another process would."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path, text: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        self._stdin = text

    def wait_ready(self) -> None:
        """Until it says so."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", (line, self.process.stderr and self.process.stderr.read())

    def end(self, timeout_s: float) -> tuple[int, str]:
        """Its exit status, and what it has written to stderr."""
        try:
            _, said = self.process.communicate(self._stdin, timeout=timeout_s)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, said


Stop = Callable[[Program], None]


def send(*numbers: signal.Signals) -> Stop:
    """Once it is ready, to all of its session, as a terminal does."""

    def stop(program: Program) -> None:
        for number in numbers:
            os.killpg(program.process.pid, number)

    return stop


def type_interrupt(program: Program) -> None:
    """Ctrl-C in the terminal."""
    assert program.process.stdin is not None
    program.process.stdin.write("\x03")
    program.process.stdin.flush()


@dataclass(frozen=True)
class Row:
    """text: what stands behind OPENING. way: how Python gets it. shell: the line that runs it as "$@".

    environment: what differs, None for not set. status, says (a regular expression for all of stderr): how it ends.
    fates: what the server knows of each worker behind it: "left" for good, "failed" at the end of its block, "silent"
    (until its lease ends), or "absent". least: pushes that are acknowledged, at least.
    """

    text: str
    way: str = "file"
    shell: str = 'exec "$@"'
    environment: dict[str, str | None] = field(default_factory=dict)
    stop: Stop | None = None
    status: int = 0
    says: str = ""
    fates: dict[str, str] = field(default_factory=lambda: {"w0": "left"})
    least: int = 3

    def start(self, folder: Path, arguments: list[str]) -> Program:
        """In a folder of its own."""
        text, path = OPENING + self.text, folder / "program.py"
        path.write_text(text)
        ways = {"file": [str(path)], "-c": ["-c", text], "stdin": ["-"], "-m": ["-m", "program"]}
        command = ["sh", "-c", self.shell, "sh", sys.executable, *ways[self.way], *arguments]
        kept = {**os.environ, **self.environment}
        environment = {name: value for name, value in kept.items() if value is not None}
        return Program(command, environment, folder, text if self.way == "stdin" else "")
