"""The options of optimd.ray.start() are those of `optimd serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from optimd_server.cli import serve
from optimd_server.options import settings
from optimd_server.settings import effective

pytest.importorskip("ray", reason="Ray is not installed")
from optimd.ray.options import NAMES, arguments_of

# start() has arguments of its own for these.
ELSEWHERE = {"listen", "insecure"}
VALUES: dict[type, tuple[Any, ...]] = {bool: (True, False), Path: ("/tmp/some where",)}


def test_every_option_of_serve_is_there_and_no_other() -> None:
    assert settings().keys() - ELSEWHERE == NAMES


def test_every_option_reaches_the_server() -> None:
    for name in NAMES:
        setting = settings()[name]
        low = setting.kind(setting.low) if setting.kind in (int, float) else 0
        for value in VALUES.get(setting.kind, (low + 1,)):
            arguments = arguments_of({name: value})
            with serve.make_context("serve", arguments) as context:
                found = effective({name: context.params[name]}, None)
            assert found.values[name] == (Path(str(value)) if setting.kind is Path else value), name


def test_what_is_not_given_stays_the_servers_default() -> None:
    assert arguments_of({"threads": None, "shared_memory": None}) == []


def test_paths_are_from_this_folder_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert arguments_of({"data_dir": "saved"}) == [f"--data-dir={os.getcwd()}/saved"]
    assert arguments_of({"event_log": "~/log"}) == ["--event-log=/home/me/log"]


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="expected an option of optimd serve, got 'data_dri': see data_dir"):
        arguments_of({"data_dri": "saved"})
