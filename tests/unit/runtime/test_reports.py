"""The server's log: one line for each thing, no flood."""

from __future__ import annotations

import logging

import pytest
from optimd_server.runtime import reports
from optimd_server.runtime.reports import Reports


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_the_first_of_a_kind_is_said_and_the_others_are_counted(said: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    log = Reports(logging.getLogger("x"), lambda: now[0])
    for _ in range(5):
        log.say(logging.WARNING, "full", "job %s is full", "j")
    log.say(logging.INFO, "other", "something else")
    now[0] += reports.EVERY_S - 0.1
    log.say(logging.WARNING, "full", "job %s is full", "j")
    now[0] += 0.1
    log.say(logging.WARNING, "full", "job %s is full", "j")
    now[0] += reports.EVERY_S
    log.say(logging.WARNING, "full", "job %s is full", "j")
    assert [(record.levelname, record.getMessage()) for record in said.records] == [
        ("WARNING", "job j is full"),
        ("INFO", "something else"),
        ("WARNING", "job j is full (5 more like it were left out)"),
        ("WARNING", "job j is full"),
    ]


def test_kinds_are_bounded(said: pytest.LogCaptureFixture) -> None:
    log = Reports(logging.getLogger("x"), lambda: 0.0)
    for kind in range(reports.KINDS_MAX + 100):
        log.say(logging.INFO, kind, "%d", kind)
    assert len(log._said) == reports.KINDS_MAX
