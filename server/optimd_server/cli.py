"""`optimd serve`: what can be wrong with its options, its port and its data directory is found before anything slow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from optimdpb import program
from optimdpb.address import is_loopback
from optimdpb.program.command import command
from optimdpb.program.ending import DONE, USAGE

from optimd_server.options import serve_options

if TYPE_CHECKING:
    from optimd_server.config import ServerConfig
    from optimd_server.storage import Store

_EPILOG = """
Settings:
  An option counts before the variable OPTIMD_<OPTION>, that before the
  configuration file, that before the default. The file is TOML: the names of
  the options with underscores (staging_mib = 512). --print-config writes one.

Signals:
  SIGTERM, SIGINT, SIGHUP  save every job, then end; a second one leaves out
                           retries and grace and gives what is being saved
                           10 s more, a third ends at once.
  SIGUSR1, SIGUSR2         do nothing.

Exit status:
  0  everything is saved, or there was no --data-dir
  1  it could not start, or something could not be saved: the last line on
     stderr says what
  2  wrong usage: an option, a variable, the configuration file

It prints `serving on HOST:PORT` once it takes calls; until then health says
NOT_SERVING and calls are refused.
"""


def main(argv: list[str]) -> int:
    """The module's own entry: only `serve`."""
    if not argv or argv[0] != "serve":
        print("usage: python -m optimd_server serve [--listen HOST:PORT] ...", file=sys.stderr)
        return USAGE
    return program.main(argv)


@command("serve", example="optimd serve --data-dir /var/lib/optimd", epilog=_EPILOG)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="OPTIMD_CONFIG",
    show_envvar=True,
    help="Read settings from this file; without it none is read.",
)
@click.option("--print-config", is_flag=True, help="Print the settings that hold, as a configuration file, and end.")
@click.option("--until-stdin-closes", is_flag=True, help="End in order when stdin reaches its end.")
@serve_options
def serve(config_file: Path | None, *, print_config: bool, until_stdin_closes: bool, **given: Any) -> int:
    """Serve jobs over gRPC until a signal ends it."""
    from optimd_server.settings import effective, server_config, text_of

    found = effective(given, config_file)
    host, port = found.address
    if print_config:
        sys.stdout.write(text_of(found))
        return DONE
    if not is_loopback(host) and not found.values["insecure"]:
        # Anybody who reaches the port can read and change every job, so leaving loopback must be said aloud.
        raise click.UsageError(f"{host} is not loopback and there is no TLS yet: add --insecure to allow it")
    config = server_config(found)
    store = _begin(host, port, config)
    from optimd_server.serving import run

    return run(host, port, config, store, watch_stdin=until_stdin_closes)


def _begin(host: str, port: int, config: ServerConfig) -> Store | None:
    """Find out in milliseconds whether port and data directory can be had. Raises OSError."""
    from optimd_server.ports import check_port

    check_port(host, port)
    if config.data_dir is None:
        return None
    from optimd_server.storage import DataDirectory

    return DataDirectory(config.data_dir)
