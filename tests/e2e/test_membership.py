"""Who comes and goes in the middle of a round, seen through the Python client and a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig

from tests.e2e.scene import eventually
from tests.support.proxy import Proxy
from tests.support.servers import ThreadServer

LEASE_S = 1.0
START = {"w": np.zeros(4, np.float32)}
Connect = Callable[[str], optimd.Worker]


class Crew:
    """Workers of one job with lr 1, each on a thread of its own, so that one may wait while another goes on."""

    def __init__(self, server: ThreadServer) -> None:
        self.server = server
        self._threads = ThreadPoolExecutor(8)
        self._workers: list[optimd.Worker] = []

    def join(
        self, name: str, workers_min: int = 1, steps_max: int | None = None, address: str = "", timeout_s: float = 20.0
    ) -> optimd.Worker:
        """One of two workers, which has joined and pulled."""
        worker = optimd.connect(address or self.server.address, job="j", worker=name, timeout_s=timeout_s)
        self._workers.append(worker)
        consistency = optimd.Sync(2, workers_min=workers_min)
        worker.ensure_job(START, optimd.SGD(1.0), consistency, steps_max=steps_max)
        worker.pull()
        return worker

    def push(self, worker: optimd.Worker, value: float, weight: float = 1.0) -> Future[optimd.PushResult]:
        """A push of one value; returns once the server has taken it, the outcome may come later."""
        seq = worker._membership.next_seq
        gradient = {"w": np.full(4, value, np.float32)}
        future = self._threads.submit(worker.push, gradient, weight=weight)
        name, epoch = worker.name or "", worker._membership.epoch
        eventually(lambda: future.done() or self.server.last_seq("j", name, epoch) >= seq, "the push to be taken")
        return future

    def parameter(self) -> float:
        """The value of every element now."""
        (value,) = set(self.server.vectors("j")[0].tolist())
        return float(value)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._threads.shutdown()


@pytest.fixture
def crew() -> Iterator[Crew]:
    with ThreadServer(ServerConfig(threads=1, lease_s=LEASE_S, tick_interval_s=0.05, wait_s_max=0.5)) as server:
        made = Crew(server)
        yield made
        made.close()


def fall_silent(worker: optimd.Worker) -> None:
    """No heartbeat any more, as of a process that hangs."""
    keeper = worker._membership._keeper
    assert keeper is not None
    keeper.stop()


def test_round_0_waits_for_the_workers_it_was_promised(crew: Crew) -> None:
    w0 = crew.join("w0")
    first = crew.push(w0, 1.0)
    assert w0.status().waiting_for == "round 0 opens with 2 workers: 1 live"
    w1 = crew.join("w1")
    assert not first.done()
    assert "round 0 waits for w1 (last seen" in w1.status().waiting_for
    second = crew.push(w1, 3.0)
    assert [future.result(10).status for future in (first, second)] == ["applied", "applied"]
    assert crew.parameter() == -2.0
    assert [(f.result().rank, f.result().world_size) for f in (first, second)] == [(0, 2), (1, 2)]


def test_a_joiner_is_a_member_from_the_next_round_on(crew: Crew) -> None:
    w0, w1 = crew.join("w0"), crew.join("w1")
    first = crew.push(w0, 1.0)
    joiner = crew.join("w2")
    early = crew.push(joiner, 100.0)
    second = crew.push(w1, 3.0)
    assert [future.result(10).status for future in (first, second)] == ["applied", "applied"]
    assert (early.result(10).status, early.result().reason) == ("discarded", "late")
    assert crew.parameter() == -2.0
    for worker in (w0, w1, joiner):
        worker.pull()
    results = [crew.push(worker, 3.0) for worker in (w0, w1, joiner)]
    assert [(f.result(10).status, f.result().world_size) for f in results] == [("applied", 3)] * 3
    assert crew.parameter() == -5.0


@pytest.mark.parametrize("pushed_before", [False, True])
def test_a_leaver_holds_nobody_up_and_what_it_committed_counts(crew: Crew, pushed_before: bool) -> None:
    w0, w1 = crew.join("w0"), crew.join("w1")
    leavers_push = crew.push(w1, 3.0) if pushed_before else None
    if leavers_push is not None:
        w1.leave()
        result = crew.push(w0, 1.0).result(10)
        assert leavers_push.result(10).status == "applied"
    else:
        waiting = crew.push(w0, 1.0)
        w1.leave()
        result = waiting.result(10)
    assert (result.status, result.world_size) == ("applied", 1)
    assert crew.parameter() == (-2.0 if pushed_before else -1.0)


def test_a_lease_that_ends_holds_nobody_up(crew: Crew) -> None:
    w0, w1 = crew.join("w0"), crew.join("w1")
    fall_silent(w1)
    result = crew.push(w0, 1.0).result(20)
    assert (result.status, result.world_size) == ("applied", 1)
    assert crew.parameter() == -1.0


def test_what_was_committed_before_a_lease_ended_counts(crew: Crew) -> None:
    w0 = crew.join("w0")
    with Proxy(crew.server.address) as proxy:
        w1 = crew.join("w1", address=proxy.address, timeout_s=LEASE_S)
        lost = crew.push(w1, 3.0)
    members = crew.server.host("j").machine.state.members
    eventually(lambda: crew.server.on_loop(lambda: len(members)) == 1, "the lease to end")
    result = crew.push(w0, 1.0).result(20)
    assert (result.status, result.world_size) == ("applied", 1)
    assert crew.parameter() == -2.0
    assert isinstance(lost.exception(20), optimd.OutcomeUnknown)


def test_a_worker_whose_lease_ended_joins_again_by_itself(crew: Crew) -> None:
    w0, w1 = crew.join("w0"), crew.join("w1")
    fall_silent(w1)
    assert crew.push(w0, 1.0).result(20).status == "applied"
    stale = w1.push({"w": np.ones(4, np.float32)})
    assert (stale.status, stale.reason) == ("discarded", "late")
    w0.pull()
    assert crew.push(w0, 1.0).result(10).status == "applied"  # round 1 opened before w1 was back
    w0.pull()
    w1.pull()
    results = [crew.push(worker, 1.0) for worker in (w0, w1)]
    assert [(f.result(10).status, f.result().world_size) for f in results] == [("applied", 2)] * 2
    assert crew.parameter() == -3.0


def test_a_second_process_under_a_name_fences_the_first(crew: Crew) -> None:
    w0, old = crew.join("w0"), crew.join("w1")
    new = crew.join("w1")
    with pytest.raises(optimd.EpochSuperseded, match="superseded"):
        old.push({"w": np.full(4, 100.0, np.float32)})
    first = crew.push(w0, 1.0).result(10)
    assert (first.status, crew.parameter()) == ("applied", -1.0)
    w0.pull()
    new.pull()
    results = [crew.push(w0, 1.0), crew.push(new, 1.0)]
    assert [future.result(10).status for future in results] == ["applied"] * 2
    assert crew.parameter() == -2.0


def test_below_workers_min_a_round_stays_open_and_says_why(crew: Crew) -> None:
    w0, w1 = crew.join("w0", workers_min=2), crew.join("w1", workers_min=2)
    waiting = crew.push(w0, 1.0)
    w1.leave()
    assert w0.status().waiting_for == "round 0 closes with 2 workers: 1 live, w1 left"
    assert not waiting.done()
    crew.join("w1", workers_min=2)
    assert waiting.result(10).status == "applied"


def test_a_round_of_nothing_usable_is_void(crew: Crew) -> None:
    w0, w1 = crew.join("w0"), crew.join("w1")
    results = [crew.push(w0, np.nan), crew.push(w1, 1e30)]
    assert [(f.result(10).status, f.result().reason) for f in results] == [
        ("rejected", "non_finite"),
        ("rejected", "too_large"),
    ]
    status = w0.status()
    assert (status.global_step, status.rounds_void, status.rejected) == (0, 1, 2)
    results = [crew.push(w0, 1.0), crew.push(w1, 1.0)]
    assert [future.result(10).status for future in results] == ["applied"] * 2
    assert crew.parameter() == -1.0


def test_a_rejected_push_does_not_spoil_the_round(crew: Crew) -> None:
    w0, w1 = crew.join("w0"), crew.join("w1")
    results = [crew.push(w0, np.inf), crew.push(w1, 1.0)]
    assert [future.result(10).status for future in results] == ["rejected", "applied"]
    assert crew.parameter() == -1.0


def test_the_end_of_the_run(crew: Crew) -> None:
    w0, w1 = crew.join("w0", steps_max=2), crew.join("w1", steps_max=2)
    for step in range(2):
        results = [crew.push(w0, 1.0), crew.push(w1, 1.0)]
        assert [future.result(10).finished for future in results] == [step == 1] * 2
        w0.pull()
        w1.pull()
    late = w0.push({"w": np.ones(4, np.float32)})
    assert (late.status, late.reason, late.global_step, late.finished) == ("discarded", "finished", 2, True)
    assert w0.pull()["w"].tolist() == [-2.0] * 4
    assert w0.status().state == "finished"
