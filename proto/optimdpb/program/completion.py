"""`optimd completion`: the script that makes a shell complete commands, options and the names of jobs."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class

from optimdpb.program.command import command
from optimdpb.program.main import COMPLETE, NAME, PROGRAM


@command(
    "completion",
    example='eval "$(optimd completion bash)"',
    epilog="""
    For every new shell: put the example into ~/.bashrc; with zsh in place of
    bash into ~/.zshrc. For fish: optimd completion fish >
    ~/.config/fish/completions/optimd.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def main(shell: str) -> None:
    """Print the script that makes a shell complete commands, options and, where a server answers, the names of jobs."""
    made = get_completion_class(shell)
    assert made is not None
    sys.stdout.write(made(PROGRAM, {}, NAME, COMPLETE).source() + "\n")
