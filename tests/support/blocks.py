"""The code blocks of the repository's pages, and the examples in docstrings."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "deploy/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """What stands between two fences. `language`: "" where none is said."""

    page: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """Its name in lists."""
        return self.text.strip().split("\n")[0].strip()


def blocks() -> list[Block]:
    """Of all pages, in order."""
    return [
        Block(str(page), language, text)
        for page in PAGES
        for language, text in _FENCE.findall((ROOT / page).read_text())
    ]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", (ROOT / page).read_text())


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with what it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((re.sub(r"\s{2,}#.*", "", line[2:]), []))
        elif found:
            found[-1][1].append(line)
    return found


def example(docstring: str) -> str:
    """The indented part of a docstring."""
    lines = docstring.splitlines()
    return textwrap.dedent("\n".join(line for line in lines[1:] if line.startswith("    ") or not line))
