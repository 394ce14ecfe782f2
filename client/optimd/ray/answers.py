"""Answers of the server's actor; a wait for one is told in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray

from optimd import words

log = logging.getLogger("optimd.ray")


def answer_of(call: Any, timeout_s: float, why: Callable[[], str]) -> Any:
    """What a call comes to. why: what it waits for, asked for once that takes long.

    Raises what the call raises, and ray's GetTimeoutError.
    """
    began_s, pause_s = time.monotonic(), words.SILENCE_S
    while True:
        left_s = timeout_s - (time.monotonic() - began_s)
        if ray.wait([call], timeout=max(0.0, min(pause_s, left_s)))[0]:
            return ray.get(call)
        if left_s <= pause_s:
            return ray.get(call, timeout=0)
        log.warning("waiting for %.0f s: %s", time.monotonic() - began_s, why())
        pause_s = words.REPEAT_S
