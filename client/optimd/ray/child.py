"""The server as a child process: its log, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

LOG_BYTES_KEPT = 64 << 10
# What is in the pipe when the child has ended is read by then, even where something else holds the pipe open.
LAST_LINES_S = 2.0
# Ray kills the children of an actor that ends, so the server is a grandchild: it sees its stdin close, saves, and ends.
# A session of its own keeps it out of the process group that is killed.
_SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "sh")


class Child:
    """Runs at once. Its stderr goes on to this process's, and its end is kept. `ended` is set when it has ended."""

    def __init__(self, command: list[str]) -> None:
        self.ended = threading.Event()
        self._log = b""
        self._process = subprocess.Popen(
            [*_SHELL, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="optimd-log", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name="optimd-wait", daemon=True).start()

    def first_line(self, timeout_s: float) -> str:
        """What it prints first; "" if it ends before. It is killed if that takes longer."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(timeout_s, self.kill)
        watchdog.start()
        line = self._process.stdout.readline().decode(errors="replace")
        watchdog.cancel()
        return line

    @property
    def log(self) -> str:
        """The end of what it has written to stderr, from the start of a line on."""
        kept = self._log
        if len(kept) == LOG_BYTES_KEPT:
            kept = kept.partition(b"\n")[2]
        return kept.decode(errors="replace")

    @property
    def end(self) -> str:
        """How it ended, in words; once it has."""
        status = self.status
        if status <= 128:
            return f"ended with exit status {status}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(status - 128).name} (exit status {status})"
        return f"ended with exit status {status}"

    @property
    def status(self) -> int:
        """Its exit status, as shells tell it; once it has ended."""
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def stop(self, timeout_s: float) -> None:
        """Close its stdin, so that it saves and ends, and wait; kill it after timeout_s."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self.ended.wait(timeout_s):
            self.kill()
            self.ended.wait()

    def kill(self) -> None:
        """Now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        while written := os.read(self._process.stderr.fileno(), 1 << 16):
            self._log = (self._log + written)[-LOG_BYTES_KEPT:]
            with contextlib.suppress(OSError, ValueError):  # nobody reads it
                sys.stderr.buffer.write(written)
                sys.stderr.buffer.flush()

    def _wait(self) -> None:
        self._process.wait()
        self._reader.join(LAST_LINES_S)
        self.ended.set()
