"""The server's log on stderr, written by a thread: who starts the server and does not read it must not stop it."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import time
from logging.handlers import QueueHandler, QueueListener

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Lines that wait to be written; more are left out.
LINES_MAX = 10_000
POLL_S = 0.01


class _LeavesOut(QueueHandler):
    """Never waits."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


class LogLines:
    """Everything that is logged from here on goes to stderr, in order, as fast as it is read."""

    def __init__(self) -> None:
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(LINES_MAX)
        written = logging.StreamHandler(sys.stderr)
        written.setFormatter(logging.Formatter(FORMAT))
        # The formats of both handlers are applied, one after the other.
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_LeavesOut(self._lines)])
        QueueListener(self._lines, written).start()

    def flush(self, wait_s: float) -> bool:
        """Whether all of it is written, within so long."""
        until_s = time.monotonic() + wait_s
        while self._lines.unfinished_tasks and time.monotonic() < until_s:
            time.sleep(POLL_S)
        return not self._lines.unfinished_tasks
