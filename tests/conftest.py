"""What holds for every test."""

from __future__ import annotations

import gc
import signal


def pytest_collection_finish() -> None:
    """Thousands of tests are never garbage: whoever collects, as some of them do, need not look at them."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Under nohup, and behind a shell's &, what tests start would ignore SIGHUP and SIGINT as well."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
