"""An interrupt anywhere in a client call: no gradient is lost or doubled, no outcome is wrong, no worker is fenced."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import optimd
import pytest
from optimd_server.runtime import ServerConfig

from tests.campaigns.bugs import BUGS
from tests.campaigns.injecting import Report
from tests.campaigns.interrupts import (
    CALLS,
    WAYS,
    Scene,
    at_every_event,
    at_random,
    by_signals,
    while_a_job_is_made,
)
from tests.support.servers import ThreadServer

_jobs = (f"job-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadServer]:
    folder: Path = tmp_path_factory.mktemp("data")
    with ThreadServer(ServerConfig(threads=1, data_dir=folder, step_bytes_max=64 << 10, jobs_max=10_000)) as running:
        yield running


def tell(capsys: pytest.CaptureFixture[str], what: str, *reports: Report) -> None:
    """The count, for whoever looks on."""
    whole = Report(sum(each.interrupts for each in reports), set().union(*(each.places for each in reports)))
    with capsys.disabled():
        print(f"\n{what}: {whole}")


@pytest.mark.parametrize("way", WAYS)
def test_some_lines_of_every_call(server: ThreadServer, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene(server, next(_jobs), WAYS[way], optimd.Async())
    reports = [at_every_event(scene, call, first=place % 47, stride=47) for place, call in enumerate(CALLS)]
    scene.end()
    tell(capsys, way, *reports)


def test_some_lines_while_a_job_is_made(server: ThreadServer, capsys: pytest.CaptureFixture[str]) -> None:
    report = while_a_job_is_made(server, next(_jobs), WAYS["shared memory"], stride=41)
    tell(capsys, "a job is made", report)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(server: ThreadServer, name: str) -> None:
    bug, way, call = BUGS[name]
    scene = Scene(server, next(_jobs), WAYS[way], optimd.Async())
    with pytest.raises((AssertionError, optimd.EpochSuperseded, TimeoutError)) as found, bug():
        at_every_event(scene, call)
    assert call in found.value.__notes__[0]
    scene.worker.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", [optimd.Async(), optimd.Sync(1)], ids=["async", "sync"])
@pytest.mark.parametrize("way", WAYS)
def test_every_line_of_every_call(
    server: ThreadServer, way: str, model: optimd.Async | optimd.Sync, capsys: pytest.CaptureFixture[str]
) -> None:
    for call in CALLS:
        scene = Scene(server, next(_jobs), WAYS[way], model)
        report = at_every_event(scene, call)
        scene.end()
        tell(capsys, f"{way}, {call}", report)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_every_seventh_bytecode_of_every_call(
    server: ThreadServer, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, call in enumerate(CALLS):
        scene = Scene(server, next(_jobs), WAYS[way], optimd.Async())
        report = at_every_event(scene, call, by_bytecode=True, first=place % 7, stride=7)
        scene.end()
        tell(capsys, f"{way}, {call}", report)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_interrupts_in_what_finds_out_about_interrupts(
    server: ThreadServer, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(10):
        scene = Scene(server, next(_jobs), WAYS[way], optimd.Async())
        report = at_random(scene, seed, calls=60, by_bytecode=bool(seed % 2))
        scene.end()
        tell(capsys, f"{way}, seed {seed}", report)


@pytest.mark.long
@pytest.mark.timeout(300, method="thread")  # the alarm is the test's own
@pytest.mark.parametrize("way", WAYS)
def test_real_signals(server: ThreadServer, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene(server, next(_jobs), WAYS[way], optimd.Async())
    report = by_signals(scene, 8.0)
    scene.end()
    assert report.interrupts > 20
    tell(capsys, f"{way}, signals", report)
