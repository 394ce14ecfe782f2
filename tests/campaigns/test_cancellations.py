"""Whatever call of the server is cancelled, at whatever suspension: nothing is lost, done twice or leaked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from optimd_server.runtime import host, parameters
from optimd_server.service import dispatch, payloads

from tests.campaigns.cancellations import PLACES, SCENARIOS, cancelled_everywhere, cases, warm_up
from tests.campaigns.cancelling import MODES

CASES = list(cases())
# One case of each scenario, on both places and in all modes by turns.
SLICE = [
    (scenario, place, mode)
    for scenario, place, mode in zip(SCENARIOS, itertools.cycle(PLACES), itertools.cycle(MODES), strict=False)
]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.mark.parametrize("case", SLICE, ids=", ".join)
def test_a_slice(case: tuple[str, str, str]) -> None:
    assert cancelled_everywhere(*case) >= 0


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if case not in SLICE], ids=", ".join)
def test_the_others(case: tuple[str, str, str]) -> None:
    assert cancelled_everywhere(*case) >= 0


async def unshielded(lock: asyncio.Lock, work: Callable[[], Any]) -> Any:
    async with lock:
        return await work()


@contextlib.contextmanager
def uncounted(self: dispatch.Gate, name: str) -> Iterator[None]:
    self.calls += 1
    yield
    self.calls -= 1


BUGS: dict[str, tuple[Any, str, Any, tuple[str, str, str]]] = {
    "a half push stays staged": (
        host.JobHost,
        "give_up",
        lambda self, staged: None,
        ("push, Async", "loop", "at once"),
    ),
    "a cancelled call stays counted": (dispatch.Gate, "call", uncounted, ("upload", "loop", "when done")),
    "the slabs are let go while a thread reads them": (
        parameters,
        "to_its_end",
        unshielded,
        ("pull", "threads", "at once"),
    ),
    "a push is given up behind its commit": (
        payloads,
        "put_outcome",
        lambda response, outcome: None,
        ("push, Async", "threads", "twice"),
    ),
}


@pytest.mark.parametrize(("target", "name", "bug", "case"), BUGS.values(), ids=list(BUGS))
def test_it_finds_bugs(
    target: Any, name: str, bug: Any, case: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, bug)
    with pytest.raises(Exception):  # noqa: B017, PT011 - in whatever way it shows
        cancelled_everywhere(*case)
