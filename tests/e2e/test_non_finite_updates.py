"""An update that spoils parameters is never applied in silence: the job stops and says why, other jobs go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optimd
import pytest
from optimdpb.errors import Refused

from tests.support.servers import ThreadServer

SMALL, LARGE = 8, 3 << 20


def job(worker: optimd.Worker, optimizer: object, elements: int, consistency: object = None) -> None:
    start = {"w": np.zeros(elements, np.float32)}
    worker.ensure_job(start, optimizer, consistency or optimd.Async())  # type: ignore[arg-type]
    worker.pull()


def huge(elements: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    gradient = np.zeros(elements, np.float32)
    gradient[elements // 2] = 1e18
    return {"w": gradient}


@pytest.mark.parametrize("elements", [SMALL, LARGE], ids=["on the loop", "on threads"])
def test_a_job_whose_parameters_are_spoiled_fails_and_says_why(elements: int) -> None:
    with (
        ThreadServer() as server,
        optimd.connect(server.address, job="spoiled", worker="w0") as worker,
        optimd.connect(server.address, job="well", worker="w0") as other,
    ):
        job(worker, optimd.SGD(1e21), elements)
        job(other, optimd.SGD(0.1), elements)
        with pytest.raises(Refused, match="left a parameter infinite or NaN") as failed:
            worker.step(huge(elements))
        assert failed.value.reason == "JOB_FAILED"
        status = worker.status()
        assert (status.state, status.applied) == ("failed", 0)
        assert "at the learning rate 1e+21" in status.failure
        with pytest.raises(Refused, match="left a parameter infinite or NaN"):
            worker.pull()
        assert other.step({"w": np.ones(elements, np.float32)}).status == "applied"


def test_a_gradient_that_turns_bad_behind_its_check_does_not_go_unnoticed() -> None:
    """A worker goes on writing to a buffer that is the server's while another's push is awaited."""
    with (
        ThreadServer() as server,
        optimd.connect(server.address, job="shared", worker="w0") as first,
        optimd.connect(server.address, job="shared", worker="w1") as second,
    ):
        elements = 64 * 1024
        job(first, optimd.SGD(0.1), elements, optimd.Sync(workers=2))
        job(second, optimd.SGD(0.1), elements, optimd.Sync(workers=2))
        mine = first.gradient_buffers()
        mine["w"][:] = 1.0
        with ThreadPoolExecutor(1) as threads:
            pushed = threads.submit(first.push, mine)
            while server.last_seq("shared", "w0", first._membership.epoch) == 0:
                assert not pushed.done()
            mine["w"][7] = np.nan
            with pytest.raises(Refused, match="left a parameter infinite or NaN"):
                second.push({"w": np.ones(elements, np.float32)})
            with pytest.raises(Refused, match="left a parameter infinite or NaN"):
                pushed.result(30)


def test_void_rounds_beyond_float32_are_told() -> None:
    with ThreadServer() as server, optimd.connect(server.address, job="big", worker="w0") as worker:
        start = {"w": np.zeros(SMALL, np.float32)}
        group = optimd.Group("*", lr_multiplier=1e38)
        worker.ensure_job(start, optimd.SGD(1e38), optimd.Async(), groups=[group])
        worker.pull()
        result = worker.step({"w": np.ones(SMALL, np.float32)})
        assert (result.status, result.reason) == ("discarded", "round_void")
        assert worker.status().rounds_void == 1


def test_a_range_test_that_spoils_parameters_puts_them_back() -> None:
    with ThreadServer() as server, optimd.connect(server.address, job="swept", worker="w0") as worker:
        job(worker, optimd.SGD(0.1), SMALL)
        worker.step({"w": np.ones(SMALL, np.float32)})
        before = server.vectors("swept")[0]
        found = worker.range_test(lambda _: (huge(SMALL), 1.0, 1.0), lr_start=1e19, lr_end=1e30, steps=12)
        assert found.end == "diverged"
        assert "infinite or NaN" in found.explanation
        assert server.vectors("swept")[0].tobytes() == before.tobytes()
        assert worker.step({"w": np.ones(SMALL, np.float32)}).status in ("applied", "discarded")
