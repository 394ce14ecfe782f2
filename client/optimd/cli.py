"""The program `optimd`: finds its commands among the installed entry points, on either side of the contract."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version

GROUP = "optimd.commands"
EXIT_OK, EXIT_USAGE = 0, 2


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit status, 2 for an unknown command."""
    arguments = sys.argv[1:] if argv is None else argv
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    usage = f"usage: optimd COMMAND ...\n\ncommands: {', '.join(sorted(commands))}\n`optimd COMMAND --help` says more."
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return EXIT_OK if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(f"optimd {version('optimd')}")
        return EXIT_OK
    command = commands.get(arguments[0])
    if command is None:
        print(f"optimd: unknown command {arguments[0]!r}; known: {', '.join(sorted(commands))}", file=sys.stderr)
        return EXIT_USAGE
    status: int = command.load()(arguments[1:])
    return status
