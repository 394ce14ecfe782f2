"""Interrupts put into the client: where they are raised, and how many there were."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import optimd

CLIENT = str(Path(optimd.__file__).parent)


class Interrupt(KeyboardInterrupt):
    """What is injected."""


class Injector:
    """Raises an Interrupt at the n-th event of this thread in the client's files, once. `places`: where it has."""

    def __init__(self, *, by_bytecode: bool) -> None:
        self.places: set[tuple[str, int]] = set()
        self._event = "opcode" if by_bytecode else "line"
        self._left = 0

    def run(self, call: Callable[[], Any], countdown: int) -> bool:
        """Whether it was raised before call() was over; what call() raises else is raised."""
        self._left = countdown
        sys.settrace(self._on_call)
        try:
            call()
        except Interrupt:
            return True
        finally:
            sys.settrace(None)
        return self._left < 0

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(CLIENT):
            return None
        frame.f_trace_opcodes = self._event == "opcode"
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == self._event:
            self._left -= 1
            if self._left < 0:
                self.places.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
                sys.settrace(None)
                raise Interrupt
        return self._on_event


@dataclass
class Report:
    """How many interrupts there were, and at how many places."""

    interrupts: int = 0
    places: set[tuple[str, int]] = field(default_factory=set)

    def __str__(self) -> str:
        files = sorted({name for name, _ in self.places})
        return f"{self.interrupts} interrupts at {len(self.places)} lines of {', '.join(files)}"
