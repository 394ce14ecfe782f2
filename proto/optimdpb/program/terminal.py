"""What is written for people: escaped where it comes from strangers, in colour on a terminal alone."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TextIO

# Tables are laid out as wide as they are: who reads them may be a program.
_WIDTH = 10_000


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would act on: it may come from a stranger."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def is_styled(stream: TextIO) -> bool:
    """Whether colours may be written to it."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(stream: TextIO, *parts: tuple[str, str]) -> None:
    """Parts of a line, each a text and its style, then the end of the line. Nothing in a text is markup."""
    if not is_styled(stream):
        stream.write("".join(text for text, _ in parts) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    Console(file=stream).print(Text.assemble(*parts), soft_wrap=True)


def table_lines(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table. columns: the heading of each, and whether it is aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    for heading, to_the_right in columns:
        table.add_column(heading, justify="right" if to_the_right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    written = io.StringIO()
    Console(file=written, width=_WIDTH, color_system=None).print(table)
    return [line.rstrip() for line in written.getvalue().splitlines()]
