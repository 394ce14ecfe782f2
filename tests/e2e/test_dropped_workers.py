"""A worker that is dropped without a word: the round waits for its lease and no longer."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig

from tests.support.servers import ThreadServer

LEASE_S = 0.5


def joined(server: ThreadServer, name: str, elements: int) -> optimd.Worker:
    worker = optimd.connect(server.address, job="j", worker=name)
    start = {"w": np.zeros(elements, np.float32)}
    worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(2, workers_min=1))
    worker.pull()
    return worker


def returns(server: ThreadServer, elements: int) -> None:
    """A task that takes part and is over."""
    joined(server, "w0", elements)


def raises(server: ThreadServer, elements: int) -> None:
    """One that ends by an error."""
    worker = joined(server, "w0", elements)
    with pytest.raises(optimd.InvalidGradient):
        worker.push({"w": np.zeros(1, np.float32)})


def fails_at_a_call(server: ThreadServer, elements: int) -> None:
    """One that the server has refused."""
    worker = joined(server, "w0", elements)
    with pytest.raises(optimd.Refused):
        worker.set_schedules({"lr": 0.1}, expected_revision=99)


@pytest.mark.parametrize("elements", [10, 20_000, 700_000])
@pytest.mark.parametrize("task", [returns, raises, fails_at_a_call])
def test_the_round_goes_on_without_it(task: Any, elements: int) -> None:
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05)) as server:
        gc.disable()  # reference counts alone must see to it
        try:
            task(server, elements)
        finally:
            gc.enable()
        with joined(server, "w1", elements) as other:
            assert other.step({"w": np.ones(elements, np.float32)}).status == "applied"
            assert [each.worker for each in other.status().workers] == ["w1"]


@pytest.mark.parametrize("elements", [10, 20_000])
def test_a_signal_handler_may_leave_in_the_middle_of_a_step(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on SIGTERM; what was sent counts, and what comes back belongs to the caller."""
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05)) as server:
        worker = optimd.connect(server.address, job="j", worker="w0")
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        transport: Any = worker._session.transport
        step = transport.step

        def interrupted(*arguments: Any) -> Any:
            answer = step(*arguments)
            worker.leave()
            return answer

        transport.step = interrupted
        result = worker.step({"w": np.ones(elements, np.float32)})
        assert result.status == "applied"
        assert set(result.parameters["w"].tolist()) == {-1.0}
        result.parameters["w"][:] = 7.0
        assert worker.status().workers == ()
        transport.step = step
        assert worker.step({"w": np.ones(elements, np.float32)}).parameters["w"][0] == -2.0
        worker.close()
