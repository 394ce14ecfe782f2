"""`optimd demo` as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PNG = b"\x89PNG\r\n"


def demo(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimd", "demo", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize(("optimizer", "steps"), [("adam", 600), ("sgdm", 300)])
def test_it_trains_digits_with_four_workers(tmp_path: Path, optimizer: str, steps: int) -> None:
    run = demo(tmp_path, "--optimizer", optimizer, "--steps", str(steps), "--json", "facts.json")
    assert run.returncode == 0, run.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts.keys() == {"accuracy", "global_step", "seconds", "steps_per_s", "workers", "optimizer"}
    assert facts["accuracy"] >= 0.96
    assert (facts["global_step"], facts["workers"], facts["optimizer"]) == (steps, 4, optimizer)
    assert facts["steps_per_s"] == pytest.approx(steps / facts["seconds"], rel=0.01)
    picture = tmp_path / "optimd-demo.png"
    assert picture.read_bytes().startswith(PNG)
    assert f"picture: {picture}\n" in run.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--workers", "0"], ["--workers", "65"], ["--steps", "0"], ["--optimizer", "magic"], ["--worker", "4"]],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    run = demo(tmp_path, *arguments)
    assert run.returncode == 2
    assert "optimd demo: " in run.stderr
    assert not list(tmp_path.iterdir())
