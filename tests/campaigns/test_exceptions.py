"""While jobs train, each call from the server's runtime into what is below it fails once.

Each fault has a server of its own, on a data directory that was saved before: it restores three jobs, trains them,
saves them, and is started again without the fault.
"""

from __future__ import annotations

import copy
import gc
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns.faults import Fault, Seams, faults_of
from tests.campaigns.story import CONFIGS, MODELS, Book, Story, leaked, resources

# gRPC's own, of servers that could not start.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
Books = dict[str, Book]
# What they end stays open where they fail.
ENDS = ("close", "close_fd", "stop")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Failed jobs have much to say, and who listens to threads that end by an error keeps all they had."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Campaign:
    """Of one kind of server; `faults` are all there are."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind
        self._template = folder / "template"
        self._books: Books = {job: Book() for job in MODELS}
        Story(self._template, kind, self._books).run()
        counted = Seams()
        with counted.entered():
            Story(self._copy("counted"), kind, copy.deepcopy(self._books)).run()
        self.faults = faults_of(counted.calls)

    def _copy(self, name: str) -> Path:
        folder = self._folder / name
        shutil.copytree(self._template, folder)
        return folder

    def run(self, number: int, fault: Fault) -> str:
        """What became of it. Raises AssertionError for what must not be."""
        folder, books = self._copy(f"fault-{number}"), copy.deepcopy(self._books)
        seams, story = Seams(fault), Story(folder, self._kind, books)
        gc.collect()
        before = resources()
        with seams.entered():
            said = story.run_faulty()
        Story(folder, self._kind, books).run(story)
        del story  # and the server in it
        left = leaked(before) if fault.seam.rpartition(".")[2] not in ENDS else ""
        assert not left, left
        shutil.rmtree(folder)
        return said if seams.raised else "not met"


def play(folder: Path, kind: str, part: slice) -> None:
    campaign = Campaign(folder, kind)
    chosen = campaign.faults[part]
    problems: list[str] = []
    results: list[str] = []
    for number, fault in enumerate(chosen):
        try:
            results.append(campaign.run(number, fault))
        except BaseException as error:
            problems.append(f"{fault}: {type(error).__name__}: {error}")
    counts = {result: results.count(result) for result in sorted(set(results))}
    print(f"\n{len(chosen)} faults of {len(campaign.faults)}, {kind}: {counts}, {len(problems)} wrong")
    assert not problems, "\n".join(problems)
    assert counts.get("not met", 0) <= len(chosen) // 2, "what the faults are put into is hardly called any more"


@pytest.mark.parametrize("kind", CONFIGS)
def test_some_faults(kind: str, tmp_path: Path) -> None:
    play(tmp_path, kind, slice(7, None, 120))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_fault(kind: str, tmp_path: Path) -> None:
    play(tmp_path, kind, slice(None))
