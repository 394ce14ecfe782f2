"""Every wait of a client, and the sentence in its log that says what it waits for."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator

import optimd
import pytest
from optimd import patience, words
from optimd_server.runtime import ServerConfig

from tests.e2e.rows_waits import BRIEF_CALLS, HUNG_CALLS, HUNG_FIRST_CALLS, ONES, WAITS, Stage
from tests.e2e.scene import eventually
from tests.support.servers import ThreadServer

CONFIG = {"threads": 2, "lease_s": 0.9, "staging_bytes_max": 3 * 16}


@pytest.fixture
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(words, "SILENCE_S", 0.3)
    monkeypatch.setattr(patience, "DELAY_S_MAX", 0.1)  # as ever, below the silence
    with ThreadServer(ServerConfig(**{**CONFIG, **getattr(request, "param", {})})) as server:
        stage = Stage(server)
        try:
            yield stage
        finally:
            stage.end()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "optimd.words"]


@pytest.mark.parametrize(("name", "stage"), [(name, wait.config) for name, wait in WAITS.items()], indirect=["stage"])
def test_a_wait_says_what_it_waits_for(name: str, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    WAITS[name].arrange(stage)
    sentence = WAITS[name].sentence
    eventually(lambda: any(sentence in line for line in said(caplog)), f"{sentence!r} in the log, got {said(caplog)}")
    assert sum(sentence in line for line in said(caplog)) == 1, "once"


def test_every_call_of_a_worker_has_its_row() -> None:
    calls = {name for name, _ in inspect.getmembers(optimd.Worker, inspect.isfunction) if not name.startswith("_")}
    assert calls == HUNG_CALLS.keys() | HUNG_FIRST_CALLS.keys() | BRIEF_CALLS.keys()


@pytest.mark.parametrize("name", BRIEF_CALLS)
def test_what_does_not_insist_on_an_answer_says_nothing_and_is_brief(name: str, stage: Stage) -> None:
    a = stage.join("a", optimd.Async())
    stage.hang()
    began_s = time.monotonic()
    BRIEF_CALLS[name](a)
    assert time.monotonic() - began_s < 4.0


def test_what_does_not_take_long_is_not_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    a = stage.join("a", optimd.Async())
    for _ in range(3):
        a.step(ONES)
    assert not said(caplog)
