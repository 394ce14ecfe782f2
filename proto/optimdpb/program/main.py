"""The program `optimd`: a group of commands that are imported when they are called or when their help is asked for."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from optimdpb.errors import OptimdError
from optimdpb.program.command import CONTEXT
from optimdpb.program.ending import MEANINGS, USAGE, complain, leave_cut_off, status_of
from optimdpb.program.table import COMMANDS, SECTIONS

NAME = "optimd"
COMPLETE = "_OPTIMD_COMPLETE"


class Program(click.Group):
    """Commands by the table alone: neither help nor completion imports one that is not asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imported here."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].where.partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse a name that is none, with the nearest."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], COMMANDS)
            remedy = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command {args[0]!r}: {remedy}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By what they are for."""
        width = max(map(len, COMMANDS))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name.ljust(width), entry.what) for entry in entries])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What holds for all of them."""
        with formatter.section("Environment"):
            formatter.write_dl(list(_ENVIRONMENT.items()))
        with formatter.section("Exit status"):
            formatter.write_dl([(str(status), meaning) for status, meaning in MEANINGS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Names of commands, or options."""
        from click.shell_completion import CompletionItem

        names = [entry for entry in COMMANDS.values() if entry.name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete) if incomplete.startswith("-") else []
        return [*(CompletionItem(entry.name, help=entry.what) for entry in names), *options]


_ENVIRONMENT = {
    "OPTIMD_SERVER": "--server of every command that talks to one",
    "OPTIMD_JOB": "--job of every command that has it",
    "OPTIMD_TIMEOUT_S": "--timeout-s of every command that talks to a server",
    "OPTIMD_CONFIG": "--config of serve; OPTIMD_... of its other options",
    "NO_COLOR": "no colours, also on a terminal",
}


@click.group(NAME, cls=Program, no_args_is_help=False, context_settings=CONTEXT)
@click.version_option(package_name=NAME, prog_name=NAME, message="%(prog)s %(version)s")
def PROGRAM() -> None:
    """The optimizer daemon: owns parameters, applies pushed gradients, sets the learning rate.

    `optimd COMMAND --help` says what a command takes, with an example.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status, one of MEANINGS."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if COMPLETE in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(PROGRAM, {}, NAME, COMPLETE, os.environ[COMPLETE])
    if not arguments:
        sys.stderr.write(PROGRAM.get_help(click.Context(PROGRAM, info_name=NAME, **PROGRAM.context_settings)) + "\n")
        return USAGE
    name = f"{NAME} {arguments[0]}" if arguments[0] in COMMANDS else NAME
    try:
        try:
            with PROGRAM.make_context(NAME, arguments) as context:
                status = PROGRAM.invoke(context) or 0
        except click.exceptions.Exit as error:
            status = error.exit_code
        sys.stdout.flush()
    except BrokenPipeError:
        return leave_cut_off()
    except (click.ClickException, click.Abort, KeyboardInterrupt, OptimdError, OSError) as error:
        complain(name, error, as_json="--json" in arguments)
        return status_of(error)
    return int(status)
