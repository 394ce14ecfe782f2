"""The options of optimd.ray.start() are those of `optimd serve`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from optimd_server.options import parser

pytest.importorskip("ray", reason="Ray is not installed")
from optimd.ray.options import NAMES, arguments_of

# start() has arguments of its own for these.
ELSEWHERE = {"help", "listen", "insecure", "until_stdin_closes"}
SERVED = {action.option_strings[-1].removeprefix("--").replace("-", "_"): action for action in parser()._actions}


def test_every_option_of_serve_is_there_and_no_other() -> None:
    assert SERVED.keys() - ELSEWHERE == NAMES


def test_every_option_reaches_the_command_line() -> None:
    for name in NAMES:
        action = SERVED[name]
        kind = bool if action.nargs == 0 else action.type
        value = {bool: True, int: 7, float: 7.0, Path: Path("/tmp/some where")}[kind]  # type: ignore[index]
        parsed = vars(parser().parse_args(arguments_of({name: value})))
        assert parsed[action.dest] == (action.const if kind is bool else value), name


def test_what_is_not_given_stays_the_servers_default() -> None:
    assert arguments_of({"threads": None, "no_shared_memory": False}) == []


def test_paths_are_from_this_folder_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert arguments_of({"data_dir": "saved"}) == [f"--data-dir={os.getcwd()}/saved"]
    assert arguments_of({"event_log": "~/log"}) == ["--event-log=/home/me/log"]


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="expected an option of optimd serve, got 'data_dri': see data_dir"):
        arguments_of({"data_dri": "saved"})
