"""What the pages say runs: each code block in the order of its page, and each command in the text."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import optimd
import pytest
from optimdpb.program import PROGRAM

from tests.support.blocks import PAGES, ROOT, Block, blocks, commands, example, prose
from tests.support.servers import ServerProcess

ADDRESS = "127.0.0.1:50051"
BLOCKS = blocks()
README_CODE = [block for block in BLOCKS if block.page == "README.md" and block.language == "python"]
CONSOLE = [block for block in BLOCKS if block.language == "console" and block.page in ("README.md", "docs/cli.md")]
(CONFIGURATION,) = (block for block in BLOCKS if block.language == "toml")
# Blocks and commands that are not run here, and the tests that run the same, or why nothing is to be run.
COVERED = {
    "Sync(workers=n):": "prose: when a round closes",
    "digits: ready, global step 812, lineage b09c1133": "output: tests/e2e/test_status.py",
    "python -m tests.simulation --count 1000            # explore seeds 0 to 999": "its options are looked up below",
}
PAGES_ELSEWHERE = {
    "docs/other-languages.md": "tests/conformance/test_languages.py",
    "docs/schedules.md": "tests/e2e/test_plot_schedule.py",
    "docs/ray.md": "tests/e2e/test_ray.py",
    "docs/cli.md": "tests/e2e/test_program.py",
}
MAKE = {"make demo": "tests/e2e/test_demo.py", "make test": "this is it"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


@pytest.fixture(scope="module")
def pasted(server: ServerProcess) -> dict[str, Any]:
    """The names of a session into which the README was pasted."""
    names: dict[str, Any] = {}
    for block in README_CODE:
        exec(compile(block.text.replace(ADDRESS, server.address), block.first_line, "exec"), names)
    return names


def test_every_block_is_run_or_covered() -> None:
    for block in BLOCKS:
        is_run = block in README_CODE or block in CONSOLE or "RULE = Rule(" in block.text
        is_run = is_run or (block.page == "docs/optimizers.md" and block.language == "python")
        is_drawing = block.page == "ARCHITECTURE.md" and not block.language
        assert is_run or is_drawing or block.page in PAGES_ELSEWHERE or block.first_line in COVERED, block
    for page, test in PAGES_ELSEWHERE.items():
        assert (ROOT / page).exists()
        assert (ROOT / test).exists()


def test_the_readme_pasted_block_by_block_trains(pasted: dict[str, Any]) -> None:
    assert pasted["params"]["w"].shape == (3, 1)
    assert np.all(pasted["params"]["w"] > 0), "towards 1, 2, 3"
    assert pasted["found"].lr_base < pasted["found"].lr_max
    assert isinstance(pasted["optimizer"], optimd.SGDM)


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.first_line)
def test_the_commands_of_the_pages_run(block: Block, server: ServerProcess, tmp_path: Path) -> None:
    with optimd.connect(server.address, job="digits", observer=True) as observer:
        adam = optimd.Adam(lr=1e-3)
        observer.ensure_job({"w": np.zeros(3, np.float32)}, adam, optimd.Sync(1), steps_max=5000, if_exists="replace")
    for command, expected in commands(block):
        program, name, *arguments = shlex.split(command)
        if f"{program} {name}" in MAKE:
            continue
        assert program == "optimd"
        (tmp_path / "optimd.toml").write_text(CONFIGURATION.text)
        asked = ["--yes"] if name == "delete-job" else []
        done = optimd_command(name, *arguments, *asked, cwd=tmp_path, server=server.address)
        assert (done.returncode, done.stderr) == (0, ""), done
        if expected:
            assert without_numbers(done.stdout).startswith(without_numbers(expected[0])), done.stdout


def without_numbers(line: str) -> str:
    """The words up to a semicolon."""
    return re.sub(r"\d+", "N", line.partition(";")[0]).strip()


def optimd_command(*arguments: str, cwd: Path, server: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimd", *arguments]
    environment = {**os.environ, "OPTIMD_SERVER": server}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def help_of(command: str) -> str:
    found = PROGRAM.get_command(click.Context(PROGRAM), command)
    assert found is not None, command
    return found.get_help(click.Context(found, info_name=command, **found.context_settings))


def test_every_command_in_the_text_has_its_options() -> None:
    texts = [prose(page) for page in PAGES if page.name != "CHANGELOG.md"]
    said = [" ".join(inline.split()) for text in texts for inline in re.findall(r"`([^`]+)`", text)]
    said += [line.removeprefix("$ ") for block in BLOCKS for line in block.text.splitlines()]
    helps: dict[str, str] = {}
    for line in said:
        if found := re.match(r"optimd ([a-z][a-z-]+)(.*)", line):
            name = found[1]
            helps.setdefault(name, help_of(name))
            options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"\s{2,}#.*", "", found[2]))
            assert helps[name], line
            assert all(option in helps[name] for option in options), line
        elif found := re.match(r"make ([a-z][a-z-]+)", line):
            assert f"\n{found[1]}:" in (ROOT / "Makefile").read_text(), line
        elif found := re.match(r"python -m (tests[\w.]*)(.*)", line):
            assert importlib.util.find_spec(found[1]) is not None, line
            source = "".join(path.read_text() for path in (ROOT / found[1].replace(".", "/")).glob("*.py"))
            options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"\s{2,}#.*", "", found[2]))
            assert all(f'"{option}"' in source for option in options), line
    assert {"serve", "status", "set-lr", "plot-schedule"} <= helps.keys()


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text()):
            assert (ROOT / page.parent / target).exists(), f"{page}: {target}"


def test_the_example_of_the_package_runs(server: ServerProcess) -> None:
    assert optimd.__doc__ is not None
    names = {
        "optimd": optimd,
        "parameters": {"w": np.zeros(3, np.float32)},
        "gradients": {"w": np.ones(3, np.float32)},
        "batch": [1, 2],
        "loss": 0.5,
    }
    code = example(optimd.__doc__).replace(ADDRESS, server.address).replace('"digits"', '"docstring"')
    exec(code, names)
    assert names["result"].status == "applied"  # type: ignore[attr-defined]


def test_the_rule_of_the_page_is_one(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "RULE = Rule(" in block.text)
    head = """
import click
import numpy as np
from optimd_server.optimizers.kernels import inlined, larger
from optimd_server.optimizers.loops import stepper
from optimd_server.optimizers.rule import Rule
from optimdpb.specs import SGDW as Mine
"""
    path = tmp_path / "mine.py"
    path.write_text(head + block.text)
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine"] = module
    spec.loader.exec_module(module)
    w, gradient = np.float32([1.0, -2.0]), np.float32([0.5, 0.5])
    row = np.float32(module.scalars(optimd.SGDW(0.1, weight_decay=0.5), 1, 0.1, ()))
    largest = module.update(w, gradient, np.empty((0, 2), np.float32), 0, 2, row)
    assert w.tolist() == pytest.approx([0.9, -1.95])
    assert np.uint32(largest >> 1).view(np.float32) == np.float32(1.95)


def test_the_schedules_of_the_page_for_users_of_torch_are_schedules() -> None:
    for block in BLOCKS:
        if block.page == "docs/optimizers.md":
            schedule = eval(block.text, {"optimd": optimd, "W": 10, "N": 100, "lr": 0.1})
            optimd.SGD(lr=schedule)
