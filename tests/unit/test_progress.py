"""How far compiling is: told, and never in its way."""

from __future__ import annotations

import io
import sys

import pytest
from optimd_server.progress import Progress


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_keeps_nothing_from_being_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", Gone())
    progress = Progress()
    progress.tell("Adam", 1, 2)
    progress.tell("SGD", 2, 2)
    progress.stop()
    progress.stop()
