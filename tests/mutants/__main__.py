"""`python -m tests.mutants [--every N] [--json FILE]`: flip, run the tests uncompiled, count who notices.

A mutant of a rule's file meets the conformance tests of its rows; one of a shared file those of a few rules and of the
arithmetic that all share. It is killed by the first test that fails, or by taking too long.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from optimd_server.optimizers import RULES

from tests.conformance.optimizers.rows import ROWS
from tests.mutants.mutate import Mutant, mutants_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "server" / "optimd_server"
OPTIMIZERS = Path("optimizers")
TESTS = "tests/conformance/optimizers"
TIMEOUT_S = 120.0
NOT_ARITHMETIC = {"__init__.py", "warmup.py"}
ROWS_OF_SHARED_FILES = ("sgd", "nesterov", "lecture_adagrad", "adam", "nadam", "lars", "lamb", "swats_switched")
TESTS_OF_SHARED_FILES = (
    r"test_bits\.py::test_(numbers_of_contributions\[.*-(sgd|adam|lecture_adam)\]|bfloat16|sums_of_squares|magnitude|the_order)",
    r"test_bits\.py::test_sizes_(1_to_257\[sgd\]|around_pieces_and_blocks\[.*-sgd\])",
)
TESTS_OF_ALL_FILES = r"test_around\.py::test_(frozen|a_sum|trust)"


@dataclass(frozen=True)
class Verdict:
    """A mutant and whether a test noticed it."""

    file: str
    line: int
    change: str
    killed: bool


def main() -> int:
    """Prints the survivors and the share killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth mutant")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    verdicts = run(options.every)
    survivors = [verdict for verdict in verdicts if not verdict.killed]
    for verdict in survivors:
        print(f"survived: {verdict.file}:{verdict.line}: {verdict.change}")
    killed = len(verdicts) - len(survivors)
    print(f"{killed} of {len(verdicts)} mutants killed: {killed / len(verdicts):.1%}")
    if options.json:
        facts = {"mutants": len(verdicts), "killed": killed, "survivors": [vars(verdict) for verdict in survivors]}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


def run(every: int = 1) -> list[Verdict]:
    """Try every Nth mutant of the update rules, as many at a time as there are cores."""
    nodes = _collected()
    work: list[tuple[str, Mutant, list[str]]] = []
    for path in sorted((PACKAGE / OPTIMIZERS).glob("*.py")):
        if path.name in NOT_ARITHMETIC:
            continue
        tests = _tests_of(path.name, nodes)
        work += [(path.name, mutant, tests) for mutant in mutants_of(path.read_text())]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda item: _try(*item), work[::every]))


def _tests_of(file: str, nodes: list[str]) -> list[str]:
    """The tests that a mutant of this file meets, the quick and telling ones first."""
    modules = {rule.scalars.__module__.rpartition(".")[2]: rule for rule in RULES}
    users = [rule.spec_class for name, rule in modules.items() if file == f"{name}.py"]
    if file == "sgdm.py":  # SGDW runs its kernel
        users = [rule.spec_class for rule in RULES if rule.spec_class.__name__ in ("SGDM", "SGDW")]
    if file == "adam.py":
        users = [rule.spec_class for rule in RULES if rule.spec_class.__name__ in ("Adam", "AdamW")]
    rows = [row.name for row in ROWS if type(row.tuned.rule(0.1)) in users] or list(ROWS_OF_SHARED_FILES)
    named = re.compile(rf"[\[-]({'|'.join(rows)})(-|\])")
    chosen = [node for node in nodes if named.search(node) and "test_bits" not in node]
    chosen += [node for node in nodes if re.search(TESTS_OF_ALL_FILES, node)]
    if not users:
        shared = re.compile("|".join(TESTS_OF_SHARED_FILES))
        chosen += [node for node in nodes if shared.search(node)]
    return sorted(chosen, key=lambda node: ("test_golden" not in node, "test_around" not in node))


def _collected() -> list[str]:
    files = [f"{TESTS}/test_{name}.py" for name in ("golden", "around", "bits")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line for line in output.splitlines() if "::" in line]


def _try(file: str, mutant: Mutant, tests: list[str]) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder)
        shutil.copytree(PACKAGE, overlay / "optimd_server", ignore=shutil.ignore_patterns("__pycache__"))
        (overlay / "optimd_server" / OPTIMIZERS / file).write_text(mutant.source)
        return Verdict(file, mutant.line, mutant.change, not passes(overlay, tests))


def passes(overlay: Path, tests: list[str]) -> bool:
    """Whether the tests pass uncompiled with the server package of this folder."""
    environment = {
        **os.environ,
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONPATH": str(overlay),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
