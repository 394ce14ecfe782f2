"""What every command of `optimd` shares: its help, its options, the numbers it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import click

CONTEXT = {"help_option_names": ["-h", "--help"]}


class Command(click.Command):
    """A command whose help ends with an example."""

    def __init__(self, *arguments: Any, example: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **{"context_settings": CONTEXT, **settings})
        self.example = example

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse arguments that are too many, with what to write instead."""
        ctx.allow_extra_args = True
        left = super().parse_args(ctx, args)
        if left and not ctx.resilient_parsing:
            raise click.UsageError(f"expected no argument {left[0]!r}{self._instead(left[0])}", ctx)
        return left

    def _instead(self, argument: str) -> str:
        """Where an address or the name of a job belongs."""
        taken = {option for parameter in self.params for option in parameter.opts}
        meant = ("--server", "--listen") if ":" in argument else ("--job",)
        option = next((option for option in meant if option in taken), "")
        return option and f": write {option} {argument}"

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, then the rest, line by line as it is written."""
        if self.example:
            with formatter.section("Example"):
                formatter.write(f"{'':{formatter.current_indent}}$ {self.example}\n")
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(inspect.cleandoc(self.epilog) + "\n")


def command(name: str, *, example: str, epilog: str = "") -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, whose docstring is its help. What the function returns is the exit status."""
    return click.command(name, cls=Command, example=example, epilog=epilog)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document; an error is one too, on stderr."
)


class Number(click.ParamType):  # type: ignore[type-arg]  # no generic in older versions
    """A number in a range, both ends included."""

    def __init__(self, kind: type[int] | type[float], low: float = -math.inf, high: float = math.inf) -> None:
        self.name = "N" if kind is int else "S"
        self._kind, self._low, self._high = kind, low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Of a text."""
        try:
            number = self._kind(value)
        except (ValueError, OverflowError):
            number = None
        if number is None or not math.isfinite(number) or not self._low <= number <= self._high:
            self.fail(f"expected {number_words(self._kind, self._low, self._high)}, got {value!r}", param, ctx)
        return number


def number_words(kind: type, low: float, high: float) -> str:
    """A range in words."""
    what = "a whole number" if kind is int else "a number"
    if math.isinf(low) and math.isinf(high):
        return what
    return f"{what} of at least {low:.12g}" if math.isinf(high) else f"{what} from {low:.12g} to {high:.12g}"


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """A value that a function makes of a text. ValueError of the function is wrong usage."""

    def __init__(self, name: str, make: Callable[[str], Any]) -> None:
        self.name = name
        self._make = make

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Of a text; a default is made already."""
        if not isinstance(value, str):
            return value
        try:
            return self._make(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
