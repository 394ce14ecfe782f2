"""How runs of `optimd` end, and what they write."""

from __future__ import annotations

import json
import math

import click
import pytest
from optimdpb.errors import Refused, ServerUnavailable
from optimdpb.program.ending import Failed, complain, json_text, reason_of, status_of
from optimdpb.program.terminal import printable, table_lines

from tests.support.errors import LOCAL

ENDINGS = [
    (click.UsageError("no"), 2, "WRONG_USAGE"),
    (click.BadParameter("no"), 2, "WRONG_USAGE"),
    (KeyboardInterrupt(), 130, "INTERRUPTED"),
    (click.Abort(), 130, "INTERRUPTED"),
    (ServerUnavailable("no"), 3, "SERVER_UNAVAILABLE"),
    (Refused("UNKNOWN_JOB", "no"), 1, "UNKNOWN_JOB"),
    (Refused.from_reason("SOMETHING_NEWER", "no", {}), 1, "SOMETHING_NEWER"),
    (Failed("NOT_AGREED", "no"), 1, "NOT_AGREED"),
    (FileNotFoundError(2, "no"), 1, "FILE_ERROR"),
    (PermissionError(13, "no"), 1, "FILE_ERROR"),
    (LOCAL["UnknownJob"], 1, "UNKNOWN_JOB"),
]


@pytest.mark.parametrize(("error", "status", "reason"), ENDINGS, ids=[repr(error) for error, _, _ in ENDINGS])
def test_every_error_has_a_status_and_a_reason(
    error: BaseException, status: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (status_of(error), reason_of(error)) == (status, reason)
    complain("optimd x", error, as_json=True)
    out, err = capsys.readouterr()
    told = json.loads(err)["error"]
    assert (out, told["reason"], told["exit_status"]) == ("", reason, status)
    assert told["message"]


@pytest.mark.parametrize("error", LOCAL.values(), ids=LOCAL)
def test_every_error_is_one_line_and_one_document(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    complain("optimd x", error, as_json=False)
    assert len(capsys.readouterr().err.splitlines()) == 1
    complain("optimd x", error, as_json=True)
    told = json.loads(capsys.readouterr().err)["error"]
    assert told["reason"].isupper()
    assert told["metadata"] == (error.metadata if isinstance(error, Refused) else {})


def test_json_has_no_number_that_json_has_not() -> None:
    text = json_text({"a": [math.nan, 1.5, (math.inf,)], "b": {"c": -math.inf, "d": "NaN"}})
    assert text == '{"a": [null, 1.5, [null]], "b": {"c": null, "d": "NaN"}}\n'


def test_what_a_terminal_would_act_on_is_escaped() -> None:
    assert printable("a\x1b[2J\r\n\x9b\u202eé[red]") == "a\\x1b[2J\\r\\n\\x9b\\u202eé[red]"


def test_a_table_stands_under_its_headings_however_wide_it_is() -> None:
    rows = [["w0", "1", "x" * 300], ["[red]é\x1b", "1000", ""], ["名前", "7", "y"]]
    heading, *lines = table_lines([("name", False), ("n", True), ("", False)], rows)
    assert heading == "name           n"
    assert lines == [
        f"w0             1  {'x' * 300}",
        "[red]é\\x1b  1000",
        "名前           7  y",
    ]
