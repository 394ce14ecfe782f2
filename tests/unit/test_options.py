"""Every field of ServerConfig is a setting of `optimd serve`: an option, a variable, a key of its file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from optimd_server.cli import serve
from optimd_server.config import Listening
from optimd_server.options import Setting, settings
from optimd_server.runtime import ServerConfig
from optimd_server.settings import Effective, effective, server_config, text_of

SETTINGS = list(settings().values())
NUMBERS = [setting for setting in SETTINGS if setting.kind in (int, float)]
HELP = serve.get_help(click.Context(serve, info_name="serve", **serve.context_settings))
# Another value than the default, in range.
OTHER: dict[type, Any] = {bool: True, Path: "/some/where", str: "127.0.0.1:7"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)


def found(*arguments: str) -> Effective:
    with serve.make_context("serve", list(arguments)) as context:
        given = dict(context.params)
    for name in ("print_config", "until_stdin_closes"):
        del given[name]
    return effective(given, given.pop("config_file"))


def given(*arguments: str) -> ServerConfig:
    return server_config(found(*arguments))


def refused(*arguments: str) -> str:
    with pytest.raises(click.UsageError) as error:
        found(*arguments)
    return error.value.message


def other(setting: Setting) -> Any:
    if setting.kind is bool:
        return not getattr(Listening() if hasattr(Listening, setting.field) else ServerConfig(), setting.field)
    return setting.kind(max(7, math.ceil(setting.low))) if setting in NUMBERS else OTHER[setting.kind]


def name_of(setting: Setting) -> str:
    return setting.key


def test_every_field_is_a_setting() -> None:
    names = [field.name for cls in (Listening, ServerConfig) for field in dataclasses.fields(cls)]
    assert [setting.field for setting in SETTINGS] == names


def test_without_any_it_is_the_default() -> None:
    assert given() == ServerConfig()
    assert set(found().origins.values()) == {""}


@pytest.mark.parametrize("setting", SETTINGS, ids=name_of)
def test_every_setting_has_its_help(setting: Setting) -> None:
    assert setting.what
    assert f"  {setting.option}" in HELP
    assert setting.variable in HELP
    assert setting.shown.split()[-1] in HELP


@pytest.mark.parametrize("setting", SETTINGS, ids=name_of)
def test_an_option_counts_before_the_environment_that_before_the_file_that_before_the_default(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "optimd.toml"
    value = other(setting)
    spelt = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
    file.write_text(f"{setting.key} = {spelt}\n")
    before = found().values[setting.key]
    told = found("--config", str(file))
    assert told.origins[setting.key] == str(file)
    assert str(told.values[setting.key]) == str(value) != str(before)
    plain = {bool: str(before).lower(), Path: "/elsewhere", str: "[::1]:0"}.get(setting.kind) or str(value + 1)
    monkeypatch.setenv(setting.variable, plain)
    told = found("--config", str(file))
    assert told.origins[setting.key] == setting.variable
    assert str(told.values[setting.key]).lower() == plain
    option = setting.option if setting.kind is not bool or value else f"--no-{setting.option[2:]}"
    told = found("--config", str(file), *([option] if setting.kind is bool else [option, str(value)]))
    assert told.origins[setting.key] == setting.option
    assert str(told.values[setting.key]) == str(value)


@pytest.mark.parametrize("setting", NUMBERS, ids=name_of)
def test_a_number_is_taken_in_its_range_alone(setting: Setting) -> None:
    assert setting.low <= found().values[setting.key] <= setting.high
    least = setting.low if setting.kind is float else math.ceil(setting.low)
    assert found(setting.option, str(least)).values[setting.key] == least
    wrong = [str(least - 1), "x", "nan", "inf", ""]
    wrong += [str(int(setting.high) + 1)] if math.isfinite(setting.high) else []
    for word in wrong:
        assert refused(f"{setting.option}={word}") == f"{setting.option}: expected {setting.expected}, got {word!r}"


def test_names_that_are_used_stay() -> None:
    config = given(
        *("--shards", "3", "--threads", "2", "--staging-mib", "5", "--lease-s", "1.5", "--event-log", "e"),
        *("--data-dir", "d", "--no-shared-memory"),
    )
    assert (config.shards, config.threads, config.staging_bytes_max, config.lease_s) == (3, 2, 5 << 20, 1.5)
    assert (config.event_log_dir, config.data_dir, config.shared_memory) == (Path("e"), Path("d"), False)


WRONG_FILES = [
    ("threads = 0", "threads: expected a whole number from 1 to 1024, got 0"),
    ("threads = 1025", "threads: expected a whole number from 1 to 1024, got 1025"),
    ('threads = "2"', "threads: expected a whole number from 1 to 1024, got '2'"),
    ("threads = 2.0", "threads: expected a whole number from 1 to 1024, got 2.0"),
    ("threads = true", "threads: expected a whole number from 1 to 1024, got True"),
    ("threads = []", "threads: expected a whole number from 1 to 1024, got []"),
    ("lease_s = 0.0", "lease_s: expected a number from 0.1 to 86400, got 0.0"),
    ("lease_s = nan", "lease_s: expected a number from 0.1 to 86400, got nan"),
    ("lease_s = inf", "lease_s: expected a number from 0.1 to 86400, got inf"),
    ("lease_s = 1979-05-27", "lease_s: expected a number from 0.1 to 86400, got datetime.date(1979, 5, 27)"),
    ("shared_memory = 1", "shared_memory: expected true or false, got 1"),
    ('shared_memory = "no"', "shared_memory: expected true or false, got 'no'"),
    ('data_dir = ""', "data_dir: expected the path of a folder, got ''"),
    ('event_log = "a\\u0000"', "event_log: expected the path of a folder, got 'a\\x00'"),
    ("data_dir = 5", "data_dir: expected the path of a folder, got 5"),
    ("listen = 50051", "listen: expected HOST:PORT, got 50051"),
    ('listen = "nowhere"', "listen: expected HOST:PORT, got 'nowhere': a port from 0 to 65535 is missing"),
    ("staging_mib = 0", "staging_mib: expected a whole number of at least 1, got 0"),
    ("thread = 2", "there is no setting thread: did you mean threads?"),
    ("data-dir = 'd'", "there is no setting data-dir: did you mean data_dir?"),
    ("staging_bytes_max = 9", "there is no setting staging_bytes_max: did you mean state_bytes_max?"),
    ("[serve]\nthreads = 2", "there is no setting serve: did you mean"),
    ("config = 'x'", "there is no setting config: "),
    ("until_stdin_closes = true", "there is no setting until_stdin_closes: "),
    ("threads = 2\nthreads = 3", "expected TOML: "),
    ("threads: 2", "expected TOML: "),
    ("\udcff", "expected TOML: "),
]


@pytest.mark.parametrize(("text", "words"), WRONG_FILES, ids=[repr(text) for text, _ in WRONG_FILES])
def test_what_is_wrong_in_a_file_is_named_with_the_file(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "optimd.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(click.UsageError) as error:
        found("--config", str(file)).address  # noqa: B018
    assert error.value.message.startswith(f"{file}: {words}")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "expected a configuration file that can be read"
    for path, why in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        assert refused("--config", str(path)).startswith(f"{path}: {words}: {why}")
    monkeypatch.setenv("OPTIMD_CONFIG", str(tmp_path))
    assert refused().startswith(f"{tmp_path}: {words}")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OPTIMD_THREADS", "0", "expected a whole number from 1 to 1024, got '0'"),
        ("OPTIMD_LEASE_S", "soon", "expected a number from 0.1 to 86400, got 'soon'"),
        ("OPTIMD_SHARED_MEMORY", "perhaps", "expected true or false, got 'perhaps'"),
        ("OPTIMD_LISTEN", "50051", "expected HOST:PORT, got '50051'"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named_with_the_variable(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(click.UsageError) as error:
        found().address  # noqa: B018
    assert error.value.message.startswith(f"{variable}: {words}")


def test_no_folder_is_not_this_one() -> None:
    """As where a variable of a script is not set."""
    assert refused("--data-dir", "") == "--data-dir: expected the path of a folder, got ''"


def test_a_file_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("default", "--threads", "OPTIMD_THREADS"):
        (tmp_path / name).write_text("threads = 3")
        assert given(f"--config={name}").threads == 3
        (tmp_path / name).write_text("threads = 0")
        assert "expected a whole number" in refused(f"--config={name}")


def test_everything_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMD_SHARDS", "0")
    assert refused("--threads=0").count("expected a whole number") == 2


def test_an_empty_variable_and_others_of_the_prefix_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets such for a service of that name."""
    monkeypatch.setenv("OPTIMD_THREADS", "")
    monkeypatch.setenv("OPTIMD_PORT", "tcp://10.0.0.1:50051")
    assert given() == ServerConfig()


def test_the_configuration_printed_is_one_that_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMD_SHARDS", "3")
    odd = '/a "b"\\c\n é\x7f'
    before = found("--lease-s", "2.5", "--data-dir", odd, "--no-shared-memory", "--staging-mib", "7")
    text = text_of(before)
    assert "shards = 3  # OPTIMD_SHARDS\n" in text
    assert "lease_s = 2.5  # --lease-s\n" in text
    assert "shared_memory = false  # --shared-memory\n" in text
    assert "# event_log is not set\n" in text
    assert tomllib.loads(text).keys() | {"event_log"} == settings().keys()
    file = tmp_path / "a\nb.toml"
    file.write_text(text)
    monkeypatch.delenv("OPTIMD_SHARDS")
    after = found("--config", str(file))
    assert server_config(after) == server_config(before)
    assert after.values == before.values
    assert tomllib.loads(text_of(after)) == tomllib.loads(text), "also with the name of that file in comments"


def test_help_names_signals_settings_and_exit_status() -> None:
    for word in (
        "SIGTERM",
        "SIGINT",
        "SIGHUP",
        "Exit status",
        "  0  ",
        "  1  ",
        "  2  ",
        "serving on HOST:PORT",
        "TOML",
    ):
        assert word in HELP
