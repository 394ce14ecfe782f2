"""How a run of `optimd` ends: its exit status, and one line, or one JSON document, about what went wrong."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
from typing import Any

import click

from optimdpb.errors import OptimdError, Refused, ServerUnavailable
from optimdpb.program.terminal import printable, write

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED, CUT_OFF = 0, 1, 2, 3, 130, 141
MEANINGS = {
    DONE: "done",
    FAILED: "it could not be done: refused, failed, or nothing was found",
    USAGE: "wrong usage: an option, a variable, a configuration file",
    UNREACHABLE: "no server answered there in time",
    INTERRUPTED: "interrupted by Ctrl-C",
    CUT_OFF: "whoever read the output has gone",
}


class Failed(OptimdError):
    """A command could not do it. reason: a stable word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def status_of(error: BaseException) -> int:
    """The exit status that an error of a command gives."""
    if isinstance(error, click.UsageError):
        return USAGE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED
    return UNREACHABLE if isinstance(error, ServerUnavailable) else FAILED


def reason_of(error: BaseException) -> str:
    """A stable word for an error: that of the contract, if it has one."""
    if isinstance(error, click.UsageError):
        return "WRONG_USAGE"
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "INTERRUPTED"
    if isinstance(error, Refused | Failed):
        return error.reason
    name = "FileError" if isinstance(error, OSError) else type(error).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def complain(name: str, error: BaseException, *, as_json: bool) -> None:
    """Say on stderr what went wrong."""
    message = " ".join(words_of(error).split())
    if as_json:
        metadata = error.metadata if isinstance(error, Refused) else {}
        said = {"reason": reason_of(error), "message": message, "metadata": metadata, "exit_status": status_of(error)}
        sys.stderr.write(json_text({"error": said}))
        return
    write(sys.stderr, (name, "bold red"), (f": {printable(message)}", ""))
    if isinstance(error, click.UsageError):
        sys.stderr.write(f"{name} --help says more\n")


def words_of(error: BaseException) -> str:
    """What went wrong, in words."""
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Option):
        variable = f", or {error.param.envvar}" if error.param.envvar else ""
        return f"expected {error.param.opts[-1]} {error.param.metavar}{variable}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"expected {error.param.human_readable_name}"
    if isinstance(error, click.NoSuchOption):
        near = difflib.get_close_matches(error.option_name, error.possibilities or (), 1)
        return f"there is no option {error.option_name}{f': did you mean {near[0]}?' if near else ''}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_where(error.param, error.ctx)}: {error.message}"
    if isinstance(error, click.ClickException):
        return error.message
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted"
    return str(error) or type(error).__name__


def _where(param: click.Parameter, context: click.Context | None) -> str:
    """Where the value of an option stands: on the command line or in the environment."""
    source = context.get_parameter_source(param.name or "") if context is not None else None
    if source is click.core.ParameterSource.ENVIRONMENT and isinstance(param.envvar, str):
        return param.envvar
    return param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name


def json_text(value: Any) -> str:
    """One JSON document and the end of its line; a number that JSON has not is null."""
    return json.dumps(_strict(value), allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def leave_cut_off() -> int:
    """Nobody reads stdout any more: what is left in it must not be complained about at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CUT_OFF
