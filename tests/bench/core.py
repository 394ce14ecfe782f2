"""Events a second of the core alone, and how the cost of one grows with the number of workers.

Each worker offers and commits a push for each round and gives a sign of life; shards answer at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from optimd_server.core import JobMachine
from optimd_server.core.effects import Apply, Effect, Joined
from optimd_server.core.events import (
    Applied,
    CreateRequested,
    Event,
    JoinRequested,
    Push,
    PushCommitted,
    PushOffered,
    SignOfLife,
    Ticked,
    UploadCompleted,
)
from optimdpb.specs import SGD, Async, Consistency, JobSpec, Layout, Ssp, Sync, Tensor

from tests.bench.pairs import Figure

WORKERS = (10, 100, 1_000, 10_000)
EVENTS = 30_000
EVENTS_PER_PUSH = 3
# As many as come in the time that so many events take.
TICKS = 2
ROUNDS = 7
MODELS: dict[str, Callable[[int], Consistency]] = {
    "Sync": Sync,
    "Sync with quorum": lambda workers: Sync(workers, quorum=workers * 9 // 10),
    "Async": lambda _: Async(),
    "Ssp": lambda _: Ssp(3),
}


class Job:
    """A ready job with this many workers, every event fed at once."""

    def __init__(self, model: Consistency, workers: int) -> None:
        spec = JobSpec(Layout((Tensor("w", (3,)),)), SGD(0.1), model)
        self.machine = JobMachine(spec, lease_s=1e6, tick_interval_s=0.25)
        self.handle(CreateRequested("w"))
        self.handle(UploadCompleted(self.machine.state.creation.token, "lineage"))
        names = [f"worker-{number:05}" for number in range(workers)]
        self.epochs = {name: self._join(name) for name in names}
        self.seq = 0

    def _join(self, name: str) -> int:
        return next(e.epoch for e in self.handle(JoinRequested(name)) if isinstance(e, Joined))

    def handle(self, event: Event) -> list[Effect]:
        """The event, and the update it may lead to."""
        effects = self.machine.handle(event, 1.0)
        for effect in effects:
            if isinstance(effect, Apply):
                self.handle(Applied(effect.step))
        return effects

    def round(self) -> Iterator[Event]:
        """Everybody's next push."""
        self.seq += 1
        for name, epoch in self.epochs.items():
            push = Push(name, epoch, self.seq, self.machine.version, 1.0, 0.5)
            yield PushOffered(push)
            yield PushCommitted(push, 1.0)
            yield SignOfLife(name, epoch)


def run() -> dict[str, list[Figure]]:
    """Figures by number of workers, in turns; ratios to the fewest."""
    return {f"{name}, {EVENTS:,} events": _figures(make) for name, make in MODELS.items()}


def _figures(make: Callable[[int], Consistency]) -> list[Figure]:
    jobs = {workers: Job(make(workers), workers) for workers in WORKERS}
    times: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(ROUNDS):
        for workers, job in jobs.items():
            times[workers].append(_time(job, workers))
    first = times[WORKERS[0]]
    return [
        Figure(
            f"{workers:,} workers",
            statistics.median(taken) * 1e3,
            statistics.median(mine / measure for mine, measure in zip(taken, first, strict=True)),
        )
        for workers, taken in times.items()
    ]


def _time(job: Job, workers: int) -> float:
    """Seconds for EVENTS events. They are made beforehand: they come from elsewhere."""
    took_s = 0.0
    for _ in range(EVENTS // (EVENTS_PER_PUSH * workers)):
        events = list(job.round())
        started_s = time.perf_counter()
        for event in events:
            job.handle(event)
        took_s += time.perf_counter() - started_s
    started_s = time.perf_counter()
    for _ in range(TICKS):
        job.handle(Ticked())
    return took_s + time.perf_counter() - started_s
