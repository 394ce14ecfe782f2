"""The command line of `optimd serve`: every field of ServerConfig is an option."""

from __future__ import annotations

import argparse
import dataclasses
import math
import typing
from pathlib import Path
from typing import Any

from optimd_server.runtime import ServerConfig

_EPILOG = """
signals:
  SIGTERM, SIGINT, SIGHUP   save every job, then end; a second one leaves out retries and grace and gives what is being
                            saved 10 s more, a third ends at once. SIGUSR1 and SIGUSR2 do nothing.
exit status:
  0  everything is saved, or there was no --data-dir
  1  it could not start, or something could not be saved: the last line on stderr says what
  2  wrong usage

It prints `serving on HOST:PORT` once it takes calls; until then health says NOT_SERVING and calls are refused.
"""


def parser() -> argparse.ArgumentParser:
    """Of `optimd serve`."""
    made = argparse.ArgumentParser(
        prog="optimd serve",
        description="Serve jobs over gRPC.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    made.add_argument(
        "--listen", default="127.0.0.1:50051", metavar="HOST:PORT", help="port 0 picks one (default: 127.0.0.1:50051)"
    )
    made.add_argument("--insecure", action="store_true", help="allow an address that is not loopback, without TLS")
    made.add_argument("--until-stdin-closes", action="store_true", help="end in order when stdin reaches its end")
    types = typing.get_type_hints(ServerConfig)
    for field in dataclasses.fields(ServerConfig):
        _add(made, field, types[field.name])
    return made


def config_of(options: argparse.Namespace) -> ServerConfig:
    """Raises ValueError, naming the option, for a value out of range."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(ServerConfig):
        value = getattr(options, field.name)
        if value is None:
            continue
        low, high, unit = (
            field.metadata.get(key, plain) for key, plain in (("low", 0), ("high", math.inf), ("unit", 1))
        )
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not low / unit <= value <= high / unit or math.isinf(value):
                raise ValueError(f"{option_of(field)}: expected {_range(low / unit, high / unit)}, got {value}")
            value *= unit
        given[field.name] = value
    return ServerConfig(**given)


def option_of(field: dataclasses.Field[Any]) -> str:
    """The option of a field of ServerConfig."""
    name = field.metadata.get("option") or field.name.replace("_", "-")
    return f"--no-{name}" if field.default is True else f"--{name}"


class _Formatter(argparse.HelpFormatter):
    """Descriptions as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text.strip("\n")


def _add(made: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    what, option = field.metadata.get("what", ""), option_of(field)
    if kind is bool:
        made.add_argument(option, dest=field.name, action="store_false", default=None, help=what)
        return
    letter, convert = {int: ("N", int), float: ("S", float)}.get(kind, ("DIR", Path))
    shown = "none" if field.default is None else f"{field.default:g}" if kind is float else str(field.default)
    default = field.metadata.get("shown") or shown
    made.add_argument(
        option, dest=field.name, type=convert, metavar=letter, help=f"{what} (default: {default})".replace("%", "%%")
    )


def _range(low: float, high: float) -> str:
    return f"at least {low:.12g}" if math.isinf(high) else f"{low:.12g} to {high:.12g}"
