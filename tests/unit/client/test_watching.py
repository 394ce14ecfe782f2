"""What looks after a call in the background is never in its way."""

from __future__ import annotations

import threading

import optimd
import pytest


def test_a_call_goes_on_where_no_thread_can_be_started(worker: optimd.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        tried.append(thread)
        raise RuntimeError("can't start new thread")

    words = worker._session.words
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with words.watching():
            pass
    assert [thread.name for thread in tried] == ["optimd-watch-j"]
    with words.watching():
        assert "optimd-watch-j" in {thread.name for thread in threading.enumerate()}
