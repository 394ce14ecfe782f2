"""Every field of ServerConfig is an option of `optimd serve`, with its range, default and help."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from optimd_server.options import config_of, option_of, parser
from optimd_server.runtime import ServerConfig

FIELDS = dataclasses.fields(ServerConfig)
NUMBERS = [field for field in FIELDS if field.type in ("int", "float")]
HELP = parser().format_help()


def given(*arguments: str) -> ServerConfig:
    return config_of(parser().parse_args(arguments))


def name_of(field: dataclasses.Field[Any]) -> str:
    return field.name


def test_without_options_it_is_the_default() -> None:
    assert given() == ServerConfig()


@pytest.mark.parametrize("field", FIELDS, ids=name_of)
def test_every_field_is_an_option_with_help(field: dataclasses.Field[Any]) -> None:
    assert field.metadata["what"]
    assert f"  {option_of(field)}" in HELP
    if field.type == "bool":
        assert getattr(given(option_of(field)), field.name) is False
    elif field.type not in ("int", "float"):
        assert getattr(given(option_of(field), "/some/where"), field.name) == Path("/some/where")


@pytest.mark.parametrize("field", NUMBERS, ids=name_of)
def test_a_number_is_taken_in_its_range_alone(field: dataclasses.Field[Any]) -> None:
    low, high, unit = (field.metadata[key] for key in ("low", "high", "unit"))
    assert low <= getattr(ServerConfig(), field.name) <= high
    least = low / unit if field.type == "float" else math.ceil(low / unit)
    assert getattr(given(option_of(field), str(least)), field.name) == least * unit
    with pytest.raises(ValueError, match=f"^{option_of(field)}: expected "):
        given(f"{option_of(field)}={least - 1}")
    if math.isfinite(high):
        with pytest.raises(ValueError, match=f"^{option_of(field)}: expected "):
            given(option_of(field), str(int(high / unit) + 1))
    if field.type == "float":
        for word in ("nan", "inf"):
            with pytest.raises(ValueError, match="expected"):
                given(option_of(field), word)


def test_names_that_are_used_stay() -> None:
    config = given(
        *("--shards", "3", "--threads", "2", "--staging-mib", "5", "--lease-s", "1.5", "--event-log", "e"),
        *("--data-dir", "d", "--no-shared-memory"),
    )
    assert (config.shards, config.threads, config.staging_bytes_max, config.lease_s) == (3, 2, 5 << 20, 1.5)
    assert (config.event_log_dir, config.data_dir, config.shared_memory) == (Path("e"), Path("d"), False)


def test_help_names_signals_and_exit_status() -> None:
    for word in ("SIGTERM", "SIGINT", "SIGHUP", "exit status", "  0  ", "  1  ", "  2  ", "serving on HOST:PORT"):
        assert word in HELP
