"""The planted faults as a test; the figure for all of them is in result.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants.__main__ import run
from tests.mutants.mutate import mutants_of

KILLED_MIN = 0.9
EVERY = 3


def test_a_flip_changes_one_thing() -> None:
    source = "def f(x, y):\n    return max(x - 1, y) if x < y and not x == 2 else np.sqrt(-x)\n"
    changes = {mutant.change for mutant in mutants_of(source)}
    assert changes == {
        "max to min",
        "Sub to Add",
        "1 to 2",
        "Lt to LtE",
        "the other of and, or: Or",
        "without Not",
        "Eq to NotEq",
        "2 to 3",
        "without sqrt",
        "without USub",
    }
    assert len({mutant.source for mutant in mutants_of(source)}) == len(changes), "each is another program"


def test_the_figure_is_kept() -> None:
    kept = json.loads(Path(__file__).with_name("result.json").read_text())
    assert kept["mutants"] >= 200
    assert kept["killed"] >= KILLED_MIN * kept["mutants"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_mutants_are_killed(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = run(EVERY)
    survivors = [verdict for verdict in verdicts if not verdict.killed]
    killed = len(verdicts) - len(survivors)
    with capsys.disabled():
        print(f"\n{killed} of {len(verdicts)} mutants killed; survivors: {survivors}")
    assert len(verdicts) >= 200
    assert killed >= KILLED_MIN * len(verdicts)
