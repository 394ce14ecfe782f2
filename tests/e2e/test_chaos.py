"""Ray workers are killed, stopped, doubled, added and removed while a proxy loses answers: training goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optimd
import pytest

from tests.support.chaos import JOB, ChaosWorker, Report, accuracy, check_books
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.alone

ray = pytest.importorskip("ray", reason="Ray is not installed")

LEASE_S = 2.0
LOST_ANSWERS = 0.1
# name: (model, updates, seconds of a gradient); about 15 s each, with the faults in the first 9.
MODELS = {
    "sync": (optimd.Sync(4, workers_min=2), 350, 0.04),
    "ssp": (optimd.Ssp(3), 1400, 0.04),
    "async": (optimd.Async(staleness_scale="inverse"), 1400, 0.04),
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Hiccups:
    """The longest time for which this machine did not run a thread that only sleeps."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        last_s = time.monotonic()
        while not self._over.wait(0.01):
            now_s = time.monotonic()
            self.longest_s, last_s = max(self.longest_s, now_s - last_s), now_s

    def end(self) -> float:
        """Stop watching."""
        self._over.set()
        self._thread.join()
        return self.longest_s


class Fleet:
    """Worker processes on the cluster. `spoiled`: names of those whose own stalls do not count."""

    def __init__(self, address: str, folder: Path, model: Any, steps_max: int, compute_s: float) -> None:
        self._arguments = (model, steps_max, compute_s)
        self._address, self._folder = address, folder
        self._actor = ray.remote(num_cpus=0.5, max_concurrency=2, max_restarts=0)(ChaosWorker)
        self._prepared: dict[str, list[Any]] = defaultdict(list)
        self._prepared_count = 0
        self.runs: dict[Any, str] = {}
        self.newest: dict[str, Any] = {}
        self.pids: dict[str, int] = {}
        self.spoiled: set[str] = set()

    def prepare(self, *names: str) -> None:
        """Processes of these names that do nothing yet."""
        for name in names:
            notes = self._folder / f"{name}-{self._prepared_count}"
            self._prepared_count += 1
            self._prepared[name].append(self._actor.remote(self._address, name, notes, *self._arguments))
        for name in names:
            ray.get(self._prepared[name][-1].process_id.remote(), timeout=60)

    def start(self, name: str) -> None:
        """The next prepared process of that name."""
        actor = self._prepared[name].pop(0)
        self.pids[name] = ray.get(actor.process_id.remote(), timeout=60)
        self.newest[name] = actor
        self.runs[actor.run.remote()] = name

    def signal(self, name: str, number: int) -> None:
        """To the newest process of that name, which this test started."""
        self.spoiled.add(name)
        os.kill(self.pids[name], number)

    def reports(self) -> list[Report]:
        """Of everybody who was not killed."""
        found = []
        for run in self.runs:
            try:
                found.append(ray.get(run, timeout=120))
            except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError):
                continue
        return found


def wreak_havoc(fleet: Fleet) -> None:
    """Nine seconds of it."""
    time.sleep(1.0)
    fleet.signal("w0", signal.SIGKILL)
    fleet.start("extra0")
    time.sleep(0.5)
    fleet.start("w0")
    time.sleep(1.0)
    fleet.signal("w1", signal.SIGSTOP)
    fleet.start("extra1")
    ray.get(fleet.newest["extra0"].leave.remote(), timeout=30)
    time.sleep(LEASE_S + 1.5)
    fleet.signal("w1", signal.SIGCONT)
    fleet.spoiled.add("w2")
    fleet.start("w2")
    ray.get(fleet.newest["extra1"].leave.remote(), timeout=30)
    fleet.start("extra2")
    time.sleep(1.5)
    fleet.signal("w3", signal.SIGKILL)
    time.sleep(LEASE_S)
    ray.get(fleet.newest["extra2"].leave.remote(), timeout=30)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "name", ["sync", pytest.param("ssp", marks=pytest.mark.long), pytest.param("async", marks=pytest.mark.long)]
)
def test_training_goes_on_under_every_fault(name: str, tmp_path: Path) -> None:
    model, steps_max, compute_s = MODELS[name]
    # Without shared memory every call goes through the proxy.
    with ServerProcess("--lease-s", str(LEASE_S), "--no-shared-memory") as server, Proxy(server.address) as proxy:
        fleet = Fleet(proxy.address, tmp_path, model, steps_max, compute_s)
        fleet.prepare("w0", "w1", "w2", "w3", "w0", "w2", "extra0", "extra1", "extra2")
        for worker in ("w0", "w1", "w2", "w3"):
            fleet.start(worker)
        proxy.lost_answers = LOST_ANSWERS
        hiccups = Hiccups()
        try:
            wreak_havoc(fleet)
            reports = fleet.reports()
        finally:
            hiccup_s = hiccups.end()
        proxy.lost_answers = 0.0
        books = check_books(tmp_path, server.address)
        with optimd.connect(server.address, job=JOB, observer=True) as observer:
            status, reached = observer.status(), accuracy(observer.pull())
    assert status.state == "finished"
    assert status.global_step == steps_max
    assert reached >= 0.9
    ended = {report.name: report.ended for report in reports}
    assert {ended[worker] for worker in ("w0", "w1", "w2")} == {"finished"}
    assert [report.ended for report in reports if report.name == "w2"].count("superseded") == 1
    others = [report for report in reports if report.name not in fleet.spoiled]
    longest = max(others, key=lambda report: report.stall_s)
    print(
        f"{name}: accuracy {reached:.3f}, {books}, {proxy.answers_lost} answers lost, longest stall of another "
        f"worker {longest.stall_s:.2f} s, of this machine {hiccup_s:.2f} s"
    )
    assert proxy.answers_lost > 20
    assert longest.stall_s <= LEASE_S + 1.0 + hiccup_s, longest
