"""The settings of `optimd serve` and the options made of them: every field of Listening and ServerConfig is one."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from optimdpb.program.command import number_words

from optimd_server.config import Listening, ServerConfig

F = TypeVar("F", bound=Callable[..., Any])
PREFIX = "OPTIMD_"
_METAVARS = {"_s_max": "SECONDS", "bytes": "BYTES", "_mib": "MIB"}


@dataclass(frozen=True)
class Setting:
    """One of them. key: its name in files; kind: bool, int, float, str or Path; low, high: in the unit of the option;
    unit: how many of the field's one of the option is; shown: the default in words.
    """

    key: str
    field: str
    kind: type
    what: str
    low: float
    high: float
    unit: int
    shown: str

    @property
    def option(self) -> str:
        """As it is written on the command line; that of a flag turns it on."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Of the environment."""
        return PREFIX + self.key.upper()

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.kind in (int, float):
            return number_words(self.kind, self.low, self.high)
        return {bool: "true or false", Path: "the path of a folder", str: "HOST:PORT"}[self.kind]

    @property
    def metavar(self) -> str:
        """What stands for its value in help."""
        if self.kind is Path:
            return "DIR"
        if self.kind is str:
            return "HOST:PORT"
        if self.key.endswith("_s"):
            return "SECONDS"
        return next((name for part, name in _METAVARS.items() if part in self.key), "N")


@functools.cache
def settings() -> dict[str, Setting]:
    """All of them by key, in the order of their fields."""
    made = [_setting(each, cls) for cls in (Listening, ServerConfig) for each in dataclasses.fields(cls)]
    return {setting.key: setting for setting in made}


def _setting(field: dataclasses.Field[Any], cls: type) -> Setting:
    kinds = [kind for kind in typing.get_args(typing.get_type_hints(cls)[field.name]) if kind is not type(None)]
    kind = kinds[0] if kinds else typing.get_type_hints(cls)[field.name]
    about = field.metadata
    unit = about["unit"]
    shown = about["shown"] or ("none" if field.default is None else _spelt(kind, field.default))
    key = about["option"] or field.name
    return Setting(key, field.name, kind, about["what"], about["low"] / unit, about["high"] / unit, unit, shown)


def _spelt(kind: type, default: Any) -> str:
    if kind is bool:
        return "on" if default else "off"
    return f"{default:g}" if kind is float else str(default)


def serve_options(function: F) -> F:
    """An option for each setting; None where it is not given, else as it was written."""
    for setting in reversed(settings().values()):
        names = f"{setting.option}/--no-{setting.option[2:]}" if setting.kind is bool else setting.option
        if setting.kind is bool:
            taken: dict[str, Any] = {"is_flag": True}
        else:
            taken = {"type": click.Path() if setting.kind is Path else str, "metavar": setting.metavar}
        text = f"{setting.what[0].upper()}{setting.what[1:]}.  [env var: {setting.variable}; default: {setting.shown}]"
        function = click.option(names, setting.key, default=None, help=text, **taken)(function)
    return function
