"""The program `optimd` in this process, and as a child."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from optimd import JobStatus
from optimd.commands.status import job_lines
from optimdpb.program import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a run in this process."""
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a run that ends well prints."""
    status, out, err = said(capsys, *arguments)
    assert (status, err) == (0, ""), err
    return out


def child(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, with these variables beside those of this process."""
    return subprocess.run(
        [sys.executable, "-m", "optimd", *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def job_text(name: str, status: JobStatus) -> str:
    """A job as `optimd status` shows it."""
    return "".join(f"{line}\n" for line, _ in job_lines(name, status))
