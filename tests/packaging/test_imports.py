"""Import directions: kept as they are, and broken as soon as somebody breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANTED = [
    ("server/optimd_server/core/arithmetic.py", "import time", "reach no clock"),
    ("server/optimd_server/optimizers/adam.py", "import random", "reach no clock"),
    ("server/optimd_server/schedules/evaluate.py", "import threading", "reach no clock"),
    ("server/optimd_server/core/job.py", "import grpc", "reach no clock"),
    ("proto/optimdpb/specs/checks.py", "import grpc", "reach no clock"),
    ("server/optimd_server/core/job.py", "import optimd_server.runtime", "floors of the server"),
    ("server/optimd_server/cli.py", "import optimd", "never import each other"),
    ("client/optimd/tensors.py", "import optimd_server", "never import each other"),
    ("proto/optimdpb/errors.py", "import optimdpb.codec", "pure values"),
]


def lint(root: Path) -> tuple[int, str]:
    path = os.pathsep.join(str(root / room) for room in ("proto", "server", "client"))
    command = [
        str(Path(sys.executable).parent / "lint-imports"),
        "--no-cache",
        "--config",
        str(root / "pyproject.toml"),
    ]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for room in ("proto", "server", "client"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_all_contracts_are_kept(copied: Path) -> None:
    status, said = lint(copied)
    assert status == 0, said
    assert "0 broken" in said


@pytest.mark.parametrize(("file", "line", "contract"), PLANTED, ids=[f"{file}: {line}" for file, line, _ in PLANTED])
def test_a_planted_import_breaks_its_contract(copied: Path, file: str, line: str, contract: str) -> None:
    source = copied / file
    source.write_text(source.read_text() + f"\n{line}\n")
    status, said = lint(copied)
    assert status != 0
    broken = [text for text in said.splitlines() if text.endswith("BROKEN")]
    assert any(contract in text for text in broken), said
