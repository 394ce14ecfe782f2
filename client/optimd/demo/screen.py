"""What the demo shows in the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from optimd.results import JobStatus


class Screen:
    """A live line with global step, loss, learning rate and steps per second."""

    def __init__(self, title: str, steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  lr {task.fields[lr]}  {task.fields[rate]} steps/s"),
            TimeElapsedColumn(),
        )
        self._title = title
        self._task = self._progress.add_task("starting Ray", total=steps, loss="-", lr="-", rate="-")
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Screen:
        self._progress.console.print(self._title)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

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
            description="training",
            completed=status.global_step,
            loss="-" if status.loss is None else f"{status.loss:.4f}",
            lr="-" if status.learning_rate is None else f"{status.learning_rate:.2e}",
            rate=rate,
        )


def print_facts(facts: dict[str, object], picture: Path) -> None:
    """The facts of the run, one to a row, and where the picture is, on a line that no terminal cuts."""
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    console = Console()
    console.print(table)
    console.print(f"picture: {picture}", soft_wrap=True, highlight=False)
