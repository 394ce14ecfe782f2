"""How far the compiling of kernels is: a bar on a terminal, else a line of the log now and then."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from typing import Any

from optimdpb.program.terminal import is_styled

log = logging.getLogger("optimd_server")

INTERVAL_S = 10.0


class Progress:
    """tell() says what comes next, from any thread; stop() gives the terminal back, and may be called again."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._said_s = time.monotonic()

    def tell(self, name: str, number: int, count: int) -> None:
        """The kernels of this name are compiled next: the number-th of so many."""
        if is_styled(sys.stderr):
            with contextlib.suppress(Exception):  # a terminal that is gone keeps no server from starting
                self._show(name, number, count)
        elif time.monotonic() - self._said_s >= INTERVAL_S:
            self._said_s = time.monotonic()
            log.info("compiling kernels: %s, %d of %d", name, number, count)

    def stop(self) -> None:
        """The bar goes, the cursor comes back."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(Exception):
                bar.stop()

    def _show(self, name: str, number: int, count: int) -> None:
        if self._bar is None:
            from rich import progress
            from rich.console import Console

            columns = ("compiling kernels", progress.BarColumn(), progress.MofNCompleteColumn(), "{task.description}")
            self._bar = progress.Progress(*columns, console=Console(file=sys.stderr), transient=True)
            self._bar.start()
            self._bar.add_task(name, total=count)
        self._bar.update(self._bar.task_ids[0], completed=number - 1, description=name)
