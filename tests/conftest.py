"""What holds for every test."""

from __future__ import annotations

import gc
import signal


def pytest_collection_finish() -> None:
    """Thousands of tests are never garbage: whoever collects, as some of them do, need not look at them."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Under nohup, servers that tests start would ignore SIGHUP as well."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
