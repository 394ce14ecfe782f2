"""More defects put in on purpose: in what changes a job from outside its rounds. BUGS has all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
from optimd_server.core.clock import Clock
from optimd_server.core.control import Control
from optimd_server.core.sync import SyncRounds
from optimd_server.state.shard import Shard

from tests.simulation.bugs import BUGS, bug

__all__ = ["BUGS"]


@bug
def a_change_holds_a_step_too_late() -> Any:
    """The update of its step is still made with what held before."""
    real = Clock.advance
    return patch.object(Clock, "advance", lambda self, step: real(self, step - 1))


@bug
def a_change_holds_at_once() -> Any:
    """Its step is not waited for."""
    real = Clock.advance
    return patch.object(Clock, "advance", lambda self, step: real(self, step + 1))


@bug
def a_request_sent_again_is_a_second_change() -> Any:
    """Requests are not remembered."""
    return patch.object(Clock, "known", lambda self, event: None)


@bug
def the_rate_goes_on_under_a_sweep() -> Any:
    """Changes to come are made while a range test makes the steps."""
    real = Control.advance

    def advance(self: Control, now_s: float) -> Any:
        if not self._rounds.closing:
            self._state.clock.advance(self._state.step)
        return real(self, now_s)

    return patch.object(Control, "advance", advance)


@bug
def a_pause_is_forgotten_on_restart() -> Any:
    """The job goes on."""
    real = Clock.restore

    def restore(self: Clock, saved: Any) -> None:
        real(self, {**saved, "paused": False})

    return patch.object(Clock, "restore", restore)


@bug
def slots_are_not_put_back() -> Any:
    """After a range test the moments are those of the sweep."""
    real = Shard.put_back

    def put_back(self: Shard, step: int) -> None:
        slots = self.slots.copy()
        real(self, step)
        np.copyto(self.slots, slots)

    return patch.object(Shard, "put_back", put_back)


@bug
def the_count_of_updates_is_not_put_back() -> Any:
    """After a range test bias corrections go on where the sweep was."""
    real = Control.put_back

    def put_back(self: Control, event: Any) -> Any:
        count = self._state.rule_count
        effects = real(self, event)
        self._state.rule_count = count
        return effects

    return patch.object(Control, "put_back", put_back)


@bug
def the_lineage_stays_after_a_range_test() -> Any:
    """Gradients at parameters of the sweep count as gradients at those that were put back."""
    real = Control.put_back

    def put_back(self: Control, event: Any) -> Any:
        with patch.object(type(self._rounds), "start_over", lambda self: []):
            lineage = self._state.lineage
            effects = real(self, event)
            self._state.lineage = lineage
        return effects

    return patch.object(Control, "put_back", put_back)


@bug
def pushes_held_at_the_end_of_a_range_test_are_forgotten() -> Any:
    """Their workers wait for ever."""
    real = SyncRounds.start_over

    def start_over(self: SyncRounds) -> Any:
        self.held = {}
        return real(self)

    return patch.object(SyncRounds, "start_over", start_over)


@bug
def a_sweep_is_saved() -> Any:
    """A snapshot in the middle of a range test is one of the sweep."""

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with (
            patch("optimd_server.runtime.images.check_savable", lambda host: None),
            patch("optimd_server.runtime.saver.check_savable", lambda host: None),
        ):
            yield

    return both()
