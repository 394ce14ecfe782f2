"""Run seeds, one or many, and say how to see a failed one again."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.simulation.scenario import Scenario, scenario_of
from tests.simulation.turnover_bugs import BUGS
from tests.simulation.world import World


@dataclass
class Result:
    """What became of one seed. `rounds`: updates made, `error`: the last lines of what was violated, "" if nothing."""

    seed: int
    name: str
    rounds: int = 0
    events: int = 0
    calls: int = 0
    simulated_s: float = 0.0
    took_s: float = 0.0
    error: str = ""
    trace: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def summary(self) -> str:
        """One line, and for a failure how to see it again."""
        facts = f"{self.rounds} rounds, {self.events} events, {self.calls} calls, {self.simulated_s:.1f} s simulated"
        line = f"{self.name}: {facts} in {self.took_s:.2f} s"
        return f"{line}\nreplay: python -m tests.simulation {self.seed} --trace" if self.error else line


def replay(seed: int, *, trace: bool = False, scenario: Scenario | None = None) -> Result:
    """One run; never raises what it finds."""
    scenario = scenario or scenario_of(seed)
    result = Result(seed, scenario.name)
    world = World(scenario, trace=trace)
    started_s = time.perf_counter()
    try:
        world.run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        result.failure = error
        result.error = "".join(traceback.format_exception(error)[-3:])
    result.took_s = time.perf_counter() - started_s
    result.rounds, result.events = world.checkers.applied, world.checkers.events
    result.calls, result.simulated_s = world.network.calls, world.loop.time()
    result.trace = world.trace or []
    return result


def explore(seeds: Iterable[int], jobs: int = 2) -> list[Result]:
    """Many runs on several processes, in the order of the seeds."""
    with multiprocessing.get_context("spawn").Pool(jobs, _quiet) as pool:
        return list(pool.imap(_run, seeds, chunksize=4))


def find_bugs(seeds_max: int, jobs: int = 2) -> Iterator[tuple[str, int | None, str]]:
    """For each planted bug the first seed that finds it, None if none does, and what it says."""
    with multiprocessing.get_context("spawn").Pool(jobs, _quiet) as pool:
        yield from pool.imap(_find, [(name, seeds_max) for name in BUGS])


def _find(task: tuple[str, int]) -> tuple[str, int | None, str]:
    name, seeds_max = task
    for seed in range(seeds_max):
        with BUGS[name]():
            result = replay(seed)
        if result.error:
            return name, seed, result.error.strip().splitlines()[-1]
    return name, None, ""


def _run(seed: int) -> Result:
    result = replay(seed)
    result.failure = None  # may not be picklable
    return result


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    gc.freeze()
