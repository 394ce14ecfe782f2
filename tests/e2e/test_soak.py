"""Minutes of cut connections, leavers, joiners and silent workers: what workers were told adds up to the parameters."""

from __future__ import annotations

import threading
import time

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig

from tests.support.proxy import Proxy
from tests.support.servers import ThreadServer

pytestmark = pytest.mark.alone

WORKERS = 4
ELEMENTS = 60_000
START = {"w": np.zeros(ELEMENTS, np.float32)}


class Soak:
    """Workers in threads that train through a proxy until `over`. `applied`: the sum of all values said to count."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.over = threading.Event()
        self.applied = 0
        self.outcomes: dict[str, int] = {}
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()

    def work(self, name: str, seed: int) -> None:
        """Join, push whole numbers for a while, then leave or fall silent; again and again."""
        rng = np.random.default_rng(seed)
        try:
            while not self.over.is_set():
                worker = optimd.connect(self.address, job="j", worker=name, timeout_s=60)
                consistency = optimd.Sync(WORKERS, workers_min=1)
                worker.ensure_job(START, optimd.SGD(1.0), consistency, reduction="sum")
                for _ in range(rng.integers(1, 40)):
                    self.push(worker, int(rng.integers(-50, 51)))
                if rng.random() < 0.7:
                    worker.leave()
                worker.close()
        except BaseException as error:
            self.errors.append(error)
            self.over.set()

    def push(self, worker: optimd.Worker, value: int) -> None:
        """One update; the value counts if the server says so."""
        worker.pull()
        result = worker.push({"w": np.full(ELEMENTS, value, np.float32)})
        with self._lock:
            word = result.reason or result.status
            self.outcomes[word] = self.outcomes.get(word, 0) + 1
            if result.status == "applied":
                self.applied += value


def soak(seconds: float, shared: bool) -> Soak:
    config = ServerConfig(threads=1, lease_s=0.5, tick_interval_s=0.05, wait_s_max=0.3, shared_memory=shared)
    with ThreadServer(config) as server, Proxy(server.address) as proxy:
        run = Soak(proxy.address)
        threads = [threading.Thread(target=run.work, args=(f"w{i}", i)) for i in range(WORKERS)]
        for thread in threads:
            thread.start()
        rng = np.random.default_rng(99)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not run.over.wait(rng.exponential(0.1)):
            proxy.cut()
            server.cut_local()
        run.over.set()
        for thread in threads:
            thread.join(90)
        assert not run.errors, run.errors
        assert set(server.vectors("j")[0].tolist()) == {-float(run.applied)}
        counters = server.host("j").machine.state.counters
        assert counters.applied == run.outcomes["applied"]
        server.host("j").machine.check_invariants()
    print(run.outcomes, counters)
    return run


@pytest.mark.parametrize("shared", [False, True], ids=["grpc", "shared memory"])
def test_seconds(shared: bool) -> None:
    assert soak(2.5, shared).outcomes["applied"] > 20


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shared", [False, True], ids=["grpc", "shared memory"])
def test_minutes(shared: bool) -> None:
    assert soak(90.0, shared).outcomes["applied"] > 500
