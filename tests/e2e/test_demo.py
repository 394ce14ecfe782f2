"""`optimd demo` as its users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PNG = b"\x89PNG\r\n"


def demo(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimd", "demo", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize(
    ("optimizer", "steps", "least"),
    [
        ("adam", 150, 0.9),
        pytest.param("adam", 600, 0.96, marks=pytest.mark.long),
        pytest.param("sgdm", 300, 0.96, marks=pytest.mark.long),
    ],
)
def test_it_trains_digits_with_four_workers(tmp_path: Path, optimizer: str, steps: int, least: float) -> None:
    run = demo(tmp_path, "--optimizer", optimizer, "--steps", str(steps), "--json")
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    (facts,) = told["runs"]
    assert facts.keys() == {"accuracy", "global_step", "seconds", "steps_per_s", "workers", "optimizer"}
    assert facts["accuracy"] >= least
    assert (facts["global_step"], facts["workers"], facts["optimizer"]) == (steps, 4, optimizer)
    assert facts["steps_per_s"] == pytest.approx(steps / facts["seconds"], rel=0.01)
    picture = tmp_path / "optimd-demo.png"
    assert picture.read_bytes().startswith(PNG)
    assert told["picture"] == str(picture)


@pytest.mark.parametrize(
    ("rules", "steps", "least"),
    [
        pytest.param(["adam", "swats"], 100, 0.8, marks=pytest.mark.long),
        pytest.param(["adam", "sgdm", "swats"], 200, 0.9, marks=pytest.mark.long),
    ],
)
def test_it_compares_rules_from_the_same_start(tmp_path: Path, rules: list[str], steps: int, least: float) -> None:
    arguments = ["--compare", ",".join(rules), "--steps", str(steps), "--plot", "c.png"]
    run = demo(tmp_path, *arguments)
    assert run.returncode == 0, run.stderr
    assert f"picture: {tmp_path / 'c.png'}\n" in run.stdout
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    accuracies = dict(re.findall(r"(\w+)\s+\S\s+([01]\.\d{4})\b", run.stdout))
    assert accuracies.keys() == set(rules), run.stdout
    assert all(float(accuracy) >= least for accuracy in accuracies.values())


def test_every_rule_of_the_demo_is_served() -> None:
    from optimd.demo.rules import RULES, optimizer_of
    from optimd_server.optimizers import RULES as SERVED

    classes = {type(optimizer_of(name, 100)) for name in RULES}
    assert classes == {rule.spec_class for rule in SERVED}


WRONG = [
    ["--workers", "0"],
    ["--workers", "65"],
    ["--steps", "0"],
    ["--optimizer", "magic"],
    ["--worker", "4"],
    ["--optimizer", "adam,sgd"],
    ["--compare", "adam,magic"],
    ["--compare", "adam,adam"],
    ["--compare", ""],
    ["--compare", "sgd", "--optimizer", "sgd"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    run = demo(tmp_path, *arguments)
    assert run.returncode == 2
    assert "optimd demo: " in run.stderr
    assert not list(tmp_path.iterdir())
