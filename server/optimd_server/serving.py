"""A server as a process: start, say when ready, stop in order."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

from optimdpb.errors import Refused
from optimdpb.program.ending import DONE, FAILED, complain

from optimd_server.logs import LogLines
from optimd_server.optimizers.warmup import compile_kernels
from optimd_server.progress import Progress
from optimd_server.runtime import Runtime, ServerConfig
from optimd_server.runtime.daemon import DaemonThread
from optimd_server.runtime.memory import keep_freed_memory
from optimd_server.service import Service
from optimd_server.storage import Store

log = logging.getLogger("optimd_server")

# So long after a second signal the process ends, whatever is not saved by then.
HURRY_S = 10.0
# So long the last lines of the log are given to be read.
FLUSH_S = 1.0
NAME = "optimd serve"


def run(host: str, port: int, config: ServerConfig, store: Store | None, *, watch_stdin: bool) -> int:
    """Serve until a signal ends it. Returns the exit status, DONE after an orderly end, else FAILED.

    store: what the data directory of the configuration holds, locked; None if it has none.
    """
    _raise_open_files_limit()
    keep_freed_memory()
    lines = LogLines()
    problem: Exception | None = None
    try:
        asyncio.run(_run(host, port, config, store, lines, watch_stdin=watch_stdin))
    except (OSError, Refused) as error:
        problem = error
    status = DONE if problem is None else FAILED
    if not lines.flush(FLUSH_S):  # nobody reads them: whatever else is written to stderr would wait for ever
        os._exit(status)
    if problem is not None:
        complain(NAME, problem, as_json=False)
    return status


def _leave(lines: LogLines, status: int, message: str) -> NoReturn:
    """End now, while a thread compiles or waits for a disk: an orderly teardown would wait for it, or tear it up."""
    if lines.flush(FLUSH_S) and message:
        complain(NAME, OSError(message), as_json=False)
        sys.stderr.flush()
    os._exit(status)


class _Ending:
    """What signals ask for: `first`: to end; then to hasten; `last`: not to wait for anything."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.first = asyncio.Event()
        self.last = asyncio.Event()
        self._hastened = False

    def ask(self, why: str) -> None:
        """A signal, or something that counts as one."""
        if not self.first.is_set():
            log.info("%s: saving, then ending", why)
            self.first.set()
        elif not self._hastened:
            log.info("%s: ending within %g s", why, HURRY_S)
            self._hastened = True
            self._service.hasten()
            asyncio.get_running_loop().call_later(HURRY_S, self.last.set)
        else:
            self.last.set()

    def listen(self) -> None:
        """Take signals from now on. SIGHUP goes on being ignored where nohup said so."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.ask, number.name)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, log.info, "%s: nothing to do", number.name)


async def _run(
    host: str, port: int, config: ServerConfig, store: Store | None, lines: LogLines, *, watch_stdin: bool
) -> None:
    loop = asyncio.get_running_loop()
    runtime = Runtime(config, store=store)
    progress = Progress()
    service = Service(runtime)
    ending = _Ending(service)
    ending.listen()
    log.info("optimd %s, process %d, data directory %s", version("optimd"), os.getpid(), config.data_dir or "none")
    if watch_stdin:
        _call_when_stdin_closes(lambda: loop.call_soon_threadsafe(ending.ask, "stdin closed"))
    starting = loop.create_task(service.start(host, port, lambda: _prepare(progress)))
    await _first_of(starting, ending.first)
    if not starting.done() and not runtime.must_end_in_order:
        progress.stop()
        _leave(lines, DONE, "")  # nothing was served, so nothing is to be saved
    await _first_of(starting, ending.last)
    if not starting.done():
        progress.stop()
        _leave(lines, FAILED, "ended while it started: what a caller was told by then is not saved")
    try:
        bound = starting.result()
    except BaseException:
        await service.stop()  # what it has begun: it serves nothing, so nothing is saved
        raise
    print(f"serving on {host}:{bound}", flush=True)
    await ending.first.wait()
    stopping = loop.create_task(service.stop())
    await _first_of(stopping, ending.last)
    if not stopping.done() and runtime.saved_all:
        _leave(lines, DONE, "")
    if not stopping.done():
        _leave(lines, FAILED, f"ended before everything was saved; not saved: {', '.join(runtime.unsaved)}")
    await stopping


async def _first_of(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Until the task is done or the event is set."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _prepare(progress: Progress) -> None:
    """Compile, which on a new machine takes half a minute."""
    started_s = time.monotonic()
    log.info("compiling kernels, or reading them from %s", os.environ.get("NUMBA_CACHE_DIR"))
    compiling = functools.partial(compile_kernels, progress.tell)
    try:
        await asyncio.get_running_loop().run_in_executor(DaemonThread("optimd-compile"), compiling)
    finally:
        progress.stop()
    # What the compiler has left is for ever: to look through it for garbage would stop all calls for 0.1 s.
    gc.collect()
    gc.freeze()
    log.info("kernels ready in %.1f s", time.monotonic() - started_s)


def _raise_open_files_limit() -> None:
    """Every worker is a connection: the usual soft limit of 1,024 would turn the thousandth away."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _call_when_stdin_closes(callback: Callable[[], object]) -> None:
    """The parent holds the other end: it closes even when the parent is killed."""

    def wait_for_end() -> None:
        # The bare descriptor: a thread inside sys.stdin at exit would hold a lock that the interpreter wants.
        while os.read(0, 4096):
            pass
        callback()

    threading.Thread(target=wait_for_end, name="optimd-stdin", daemon=True).start()
