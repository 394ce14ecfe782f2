"""The settings that hold for a server, of its options, the environment, a configuration file and the defaults."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import click
from optimdpb.address import split_address
from optimdpb.program.terminal import printable
from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from optimd_server.config import Listening, ServerConfig
from optimd_server.options import PREFIX, Setting, settings

# No path is empty.
DEFAULT = ""
_KINDS: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), Path: (str,)}


@dataclass(frozen=True)
class Effective:
    """values: by key, in the unit of the option, None where there is none. origins: option, variable, file or ""."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    @property
    def address(self) -> tuple[str, int]:
        """Where to listen. Raises UsageError."""
        try:
            return split_address(self.values["listen"], port_min=0)
        except ValueError as error:
            raise click.UsageError(f"{_place(self.origins['listen'], 'listen')}: {error}") from None


def effective(given: Mapping[str, Any], config_file: Path | None) -> Effective:
    """given: the options that were written, by key. Raises UsageError that names where what is wrong stands."""
    stated = {key: value for key, value in given.items() if value is not None}
    in_file = {} if config_file is None else _read(config_file)
    environment = {name.upper(): value for name, value in os.environ.items()}
    origins = {}
    for key, setting in settings().items():
        if key in stated:
            origins[key] = setting.option
        elif environment.get(setting.variable):
            origins[key] = setting.variable
        else:
            origins[key] = str(config_file) if key in in_file else DEFAULT
    try:
        found = _model(in_file)(**stated)
    except ValidationError as error:
        raise click.UsageError("; ".join(_words(each, origins) for each in error.errors())) from None
    defaults = {**dataclasses.asdict(Listening()), **dataclasses.asdict(ServerConfig())}
    values = {}
    for key, setting in settings().items():
        value = defaults[setting.field]
        default = value // setting.unit if setting.unit != 1 else value
        values[key] = default if origins[key] == DEFAULT else getattr(found, key)
    return Effective(values, origins)


def server_config(found: Effective) -> ServerConfig:
    """In the units of its fields."""
    names = {field.name for field in dataclasses.fields(ServerConfig)}
    given = {
        setting.field: found.values[key] * setting.unit if setting.unit != 1 else found.values[key]
        for key, setting in settings().items()
        if setting.field in names and found.origins[key] != DEFAULT
    }
    return ServerConfig(**given)


def text_of(found: Effective) -> str:
    """A configuration file that says the same, each setting with where it comes from."""
    lines = ["# Settings of `optimd serve`: give them back with --config FILE."]
    for key, setting in settings().items():
        value, origin = found.values[key], printable(found.origins[key]) or "default"
        lines += ["", f"# {setting.what}"]
        lines.append(f"# {key} is not set" if value is None else f"{key} = {_toml(value)}  # {origin}")
    return "\n".join(lines) + "\n"


class _Settings(BaseSettings):
    """Of options, then the environment, then what stands in `in_file`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid")
    in_file: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See BaseSettings: the first counts."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls.in_file))


def _model(in_file: Mapping[str, Any]) -> type[_Settings]:
    """Every setting is a field, None where nobody says anything."""
    fields: dict[str, Any] = {key: (_annotation(setting) | None, None) for key, setting in settings().items()}
    made = create_model("ServeSettings", __base__=_Settings, **fields)
    made.in_file = in_file
    return made


def _annotation(setting: Setting) -> Any:
    if setting.kind is Path:
        return Annotated[Path, BeforeValidator(_path_text)]
    if setting.kind not in (int, float):
        return setting.kind
    high = None if math.isinf(setting.high) else setting.high
    return Annotated[setting.kind, Field(ge=setting.low, le=high, allow_inf_nan=None if setting.kind is int else False)]


def _path_text(text: str) -> str:
    """Nothing is no folder, least of all the one that the server was started in."""
    if not text or "\0" in text:
        raise ValueError
    return text


def _read(file: Path) -> dict[str, Any]:
    """What stands in a file, each value of the right kind. Raises UsageError."""
    try:
        found = tomllib.loads(file.read_text())
    except OSError as error:
        raise click.UsageError(f"{file}: expected a configuration file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"{file}: expected TOML: {error}") from None
    for key, value in found.items():
        if key not in settings():
            near = difflib.get_close_matches(key.replace("-", "_"), settings(), 1)
            remedy = f"did you mean {near[0]}?" if near else "optimd serve --print-config names them all"
            raise click.UsageError(f"{file}: there is no setting {key}: {remedy}")
        if not _is_of(settings()[key].kind, value):
            raise click.UsageError(f"{file}: {key}: expected {settings()[key].expected}, got {value!r}")
    return found


def _is_of(kind: type, value: object) -> bool:
    """In TOML a kind is told by how it is written."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, _KINDS[kind])


def _words(problem: Any, origins: Mapping[str, str]) -> str:
    key = str(problem["loc"][0])
    return f"{_place(origins[key], key)}: expected {settings()[key].expected}, got {problem['input']!r}"


def _place(origin: str, key: str) -> str:
    """Where a value stands."""
    return origin if origin in (settings()[key].option, settings()[key].variable) else f"{origin}: {key}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
