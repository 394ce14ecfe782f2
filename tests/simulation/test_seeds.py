"""Whole runs from seeds: nothing is ever violated, and the same seed is the same run."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.simulation.run import Result, explore, replay
from tests.simulation.scenario import ROUNDS, large_scenario

SEEDS = 45
SEEDS_A_TEST = 15
ROUNDS_LONG = 1_000_000
BATCH = 2_000
JOBS = len(os.sched_getaffinity(0))


def check(results: list[Result]) -> int:
    """No violation, every run to its end. Returns the number of rounds."""
    failed = [f"{result.summary()}\n{result.error}" for result in results if result.error]
    assert not failed, f"{len(failed)} of {len(results)} seeds failed:\n" + "\n".join(failed[:5])
    assert min(result.rounds for result in results) >= ROUNDS
    return sum(result.rounds for result in results)


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_no_seed_breaks_a_promise(first: int) -> None:
    results = explore(range(first, first + SEEDS_A_TEST), 1)
    rounds = check(results)
    took_s = sum(result.took_s for result in results)
    print(f"{len(results)} seeds, {rounds} rounds, {rounds / took_s:.0f} rounds a second on a core")


def test_a_seed_is_a_run() -> None:
    """What is printed to replay a failure shows that very failure."""
    for seed in (1, 5, 10):
        first, again = replay(seed, trace=True), replay(seed, trace=True)
        assert len(first.trace) > 100
        assert _without_chance(first.trace) == _without_chance(again.trace)


def _without_chance(trace: list[str]) -> list[str]:
    """Lineages are random ids and differ."""
    return [line.partition("lineage='")[0] for line in trace if "lineage" not in line or "Version" in line]


def test_fifty_workers_on_eight_shards() -> None:
    result = replay(0, scenario=large_scenario(50, 8, ROUNDS))
    assert not result.error, result.error
    assert result.rounds >= ROUNDS
    print(result.summary())


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_thousand_workers_on_eight_shards() -> None:
    result = replay(0, scenario=large_scenario(1000, 8, ROUNDS))
    assert not result.error, result.error
    assert result.rounds >= ROUNDS
    print(result.summary())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_million_rounds() -> None:
    """Other seeds each time."""
    seed, rounds = secrets.randbelow(10**9), 0
    while rounds < ROUNDS_LONG:
        rounds += check(explore(range(seed, seed + BATCH), JOBS))
        seed += BATCH
        print(f"up to seed {seed}: {rounds} rounds")
