"""Delays grow, are jittered, bounded, and start anew when the server is heard of."""

from __future__ import annotations

import pytest
from optimd.patience import DELAY_S_FIRST, DELAY_S_MAX, TRANSFERS_MAX, Patience
from optimd.surroundings import Machine


class Clock(Machine):
    """Time that passes only in sleep(), chance that is always the same. `slept` holds every nap."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.chance = 0.0
        self.slept: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time_s += seconds

    def jitter(self) -> float:
        return self.chance


def patience(clock: Clock, timeout_s: float, jitter: float) -> Patience:
    clock.chance = jitter
    return Patience(timeout_s, clock)


def test_delays_double_up_to_their_bound() -> None:
    clock = Clock()
    patient = patience(clock, 1000.0, jitter=1.0)
    for _ in range(12):
        assert patient.wait()
    assert clock.slept[:3] == [DELAY_S_FIRST, 2 * DELAY_S_FIRST, 4 * DELAY_S_FIRST]
    assert clock.slept[-1] == DELAY_S_MAX == max(clock.slept)


def test_jitter_takes_up_to_half_of_a_delay() -> None:
    clock = Clock()
    patience(clock, 1000.0, jitter=0.0).wait()
    assert clock.slept == [DELAY_S_FIRST / 2]


def test_patience_ends_when_its_time_is_over() -> None:
    clock = Clock()
    patient = patience(clock, 3.0, jitter=1.0)
    while patient.wait():
        pass
    assert sum(clock.slept) == pytest.approx(3.0)
    assert not patient.wait()


def test_a_sign_of_life_starts_it_anew() -> None:
    clock = Clock()
    patient = patience(clock, 3.0, jitter=1.0)
    while patient.wait():
        pass
    clock.slept.clear()
    patient.heard()
    assert patient.wait()
    assert clock.slept == [DELAY_S_FIRST]


def test_a_delay_the_server_asks_for_is_kept_but_not_beyond_the_end() -> None:
    clock = Clock()
    patient = patience(clock, 3.0, jitter=1.0)
    assert patient.wait(2.0)
    assert patient.wait(2.0)
    assert clock.slept == [2.0, 1.0]
    assert not patient.wait(2.0)


def test_it_counts_from_the_first_failure() -> None:
    """A sending that has taken longer by itself deserves another try all the more."""
    clock = Clock()
    patient = patience(clock, 3.0, jitter=1.0)
    clock.time_s += 1000.0
    assert patient.wait()
    clock.time_s += 1000.0
    assert not patient.wait()


def test_transfers_that_moved_are_tried_again_but_not_for_ever() -> None:
    clock = Clock()
    patient = patience(clock, 3.0, jitter=1.0)
    tries = 0
    while patient.wait(moved=True):
        clock.time_s += 1000.0
        tries += 1
    assert tries == TRANSFERS_MAX
    patient.heard()
    assert patient.wait(moved=True)
