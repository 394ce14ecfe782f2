"""The style that matters, as tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import optimd
import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "proto" / "optimdpb" / "v1"
SOURCES = sorted(
    path
    for room in ("proto/optimdpb", "server/optimd_server", "client/optimd")
    for path in (ROOT / room).rglob("*.py")
    if GENERATED not in path.parents
)
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
MAY_PRINT = {"cli.py", "serving.py", "__main__.py", "replay.py", "screen.py"}


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tidy(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= FILE_LINES_MAX
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not re.search(r"^\s*#\s*[-=#*~]{4,}", text, re.M), "a banner comment"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, f"{node.name} is too long"
        prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not prints or path.name in MAY_PRINT, "a library does not print"


def test_public_names_are_those_in_all() -> None:
    public = {
        name for name, value in vars(optimd).items() if not name.startswith("_") and not isinstance(value, type(optimd))
    }
    assert public | {"__version__"} >= set(optimd.__all__)
    assert public == set(optimd.__all__) - {"__version__"}


def test_the_readme_holds_what_a_newcomer_needs() -> None:
    top = "\n".join((ROOT / "README.md").read_text().splitlines()[:45])
    for word in ("make demo", "make test", "optimd.connect", "is **not**", "Push", "Pull", "Join"):
        assert word in top
    assert "@@" not in top
