"""What the demo shows in the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from optimd.results import JobStatus


class Screen:
    """A live line with global step, loss, learning rate and steps per second."""

    def __init__(self, title: str, steps: int, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  lr {task.fields[lr]}  {task.fields[rate]} steps/s"),
            TimeElapsedColumn(),
            console=Console(file=stream),
        )
        self._title = title
        self._task = self._progress.add_task("starting Ray", total=steps, loss="-", lr="-", rate="-")
        self._name = ""
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Screen:
        self._progress.console.print(self._title)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """The rule of this name trains next."""
        self._name, self._first = name, None
        self._progress.update(self._task, description=f"{name}: starting", completed=0, loss="-", lr="-", rate="-")

    def show(self, status: JobStatus) -> None:
        """Redraw the line."""
        now_s = time.monotonic()
        if self._first is None and status.global_step:
            self._first = (status.global_step, now_s)
        rate = "-"
        if self._first is not None and now_s > self._first[1]:
            rate = f"{(status.global_step - self._first[0]) / (now_s - self._first[1]):.0f}"
        self._progress.update(
            self._task,
            description=self._name,
            completed=status.global_step,
            loss="-" if status.loss is None else f"{status.loss:.4f}",
            lr="-" if status.learning_rate is None else f"{status.learning_rate:.2e}",
            rate=rate,
        )


def print_facts(facts: dict[str, Any], picture: Path) -> None:
    """The facts of the run, one to a row, and where the picture is, on a line that no terminal cuts."""
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    _print(table, picture)


def print_comparison(facts: dict[str, dict[str, Any]], picture: Path) -> None:
    """One row for each rule, the best accuracy first."""
    table = Table("rule", "accuracy", "global step", "seconds", "steps/s")
    for name, of in sorted(facts.items(), key=lambda entry: -entry[1]["accuracy"]):
        table.add_row(
            name, f"{of['accuracy']:.4f}", *(str(of[key]) for key in ("global_step", "seconds", "steps_per_s"))
        )
    _print(table, picture)


def _print(table: Table, picture: Path) -> None:
    console = Console()
    console.print(table)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)
