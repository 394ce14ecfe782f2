"""What the handler of a signal raises in a worker's program: at any line of the client, or wherever it waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import optimd

from tests.simulation.loop import Fiber

_CLIENT = str(Path(optimd.__file__).parent)
# Python swallows what is raised there, and when they run is chance.
_FINALIZERS = {"_dropped", "abandon"}


class Interrupted(BaseException):
    """As KeyboardInterrupt: Ctrl-C, SIGALRM, Ray's cancel."""


class Interruption:
    """Raises Interrupted in a fiber once it has run so many lines of the client; `happened(where)` is told before."""

    def __init__(self, fiber: Fiber, lines: int, happened: Callable[[str], None]) -> None:
        self._fiber = fiber
        self._lines = lines
        self._happened = happened
        fiber.trace = self._enter
        frame = fiber.frame
        while frame is not None:  # it may be in the middle of a call
            if frame.f_code.co_filename.startswith(_CLIENT):
                frame.f_trace = self._line
            frame = frame.f_back

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        is_traced = code.co_filename.startswith(_CLIENT) and code.co_name not in _FINALIZERS
        return self._line if is_traced else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self._fiber.trace is None or event != "line":
            return self._line
        self._lines -= 1
        if self._lines > 0:
            return self._line
        self._fiber.untrace()
        code = frame.f_code
        self._happened(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}")
        raise Interrupted
