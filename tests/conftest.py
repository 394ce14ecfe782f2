"""What holds for every test."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Thousands of tests are never garbage: whoever collects, as some of them do, need not look at them."""
    gc.collect()
    gc.freeze()
