"""`make docs-cli`: docs/cli.md, with the help of every command as it is."""

from __future__ import annotations

from pathlib import Path

import click
from optimdpb.program import PROGRAM
from optimdpb.program.ending import MEANINGS
from optimdpb.program.table import COMMANDS, SECTIONS

PATH = Path(__file__).parents[2] / "docs" / "cli.md"
WIDTH = 78
HEAD = """# The program `optimd`

This page is written by `make docs-cli`. `optimd --help` lists the commands, `optimd COMMAND --help` has what is below.

"""
RULES = """
## What holds for all of them
- **Address and job**: `--server HOST:PORT` and `--job NAME`, or `OPTIMD_SERVER` and `OPTIMD_JOB`; an option
  counts before its variable. `--timeout-s` (`OPTIMD_TIMEOUT_S`) is how long the server may take to answer a
  call.
- **JSON**: with `--json` a command prints one JSON document on stdout; what is NaN or infinite is null in it.
  An error is one on stderr: `{"error": {"reason", "message", "metadata", "exit_status"}}`; its reason is that
  of the contract where the server refused, `SERVER_UNAVAILABLE` where none answered, `WRONG_USAGE` for options.
- **Colours** are for terminals alone; `NO_COLOR=1` and `TERM=dumb` turn them off.
- **Completion** of commands, options and the names of jobs: `eval "$(optimd completion bash)"`, or zsh; fish
  reads `optimd completion fish | source`. Names of jobs come from the server that is meant, if it answers
  within a second.

| exit status | meaning |
|---|---|
"""
CONSOLE = """
```console
$ optimd status --job digits
digits: ready, global step 0 of 5000
$ optimd set-lr --job digits --schedule 'sgdr(lr_max=1e-3, lr_min=1e-5, period=500)' --json
{"job": "digits", "revision": 1, "at_step": 0}
$ optimd plot-schedule 'cosine(1e-3, 0, 5000)' --steps 5000 --json
{"curves": [{"label": "cosine(lr_max=0.001, lr_min=0.0, steps=5000)"
```

## A configuration file for `optimd serve`
An option counts before the variable `OPTIMD_<OPTION>`, that before the file of `--config FILE` (or
`OPTIMD_CONFIG`), that before the default. No file is read unless it is named. It is TOML; its keys are the
options with underscores:
```toml
listen = "127.0.0.1:0"
data_dir = "data"
staging_mib = 512
shared_memory = false       # --no-shared-memory
```
A key that is none, a value of the wrong kind or out of range is refused (exit status 2) with the file, the key
and what was expected. `--print-config` prints what holds, as such a file, each value with where it comes from,
and starts nothing:
```console
$ optimd serve --config optimd.toml --threads 2 --print-config
# Settings of `optimd serve`: give them back with --config FILE.
```
Port and data directory are tried before kernels are compiled: one that cannot be had ends the program at once.
"""


def help_of(name: str) -> str:
    """What `optimd NAME --help` prints on a terminal of 80 columns."""
    program = click.Context(PROGRAM, info_name="optimd", terminal_width=WIDTH, **PROGRAM.context_settings)
    command = PROGRAM.get_command(program, name)
    assert command is not None
    return command.get_help(click.Context(command, info_name=name, parent=program))


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, entries in SECTIONS.items():
        parts.append(f"**{title}**: " + ", ".join(f"[`{entry.name}`](#{entry.name})" for entry in entries) + "\n\n")
    parts.append(RULES.lstrip())
    parts += [f"| {status} | {meaning} |\n" for status, meaning in MEANINGS.items()]
    parts.append(CONSOLE)
    for name in COMMANDS:
        parts.append(f"\n## {name}\n```text\n{help_of(name)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PATH.write_text(page())
