"""What changes a job from outside its rounds: other schedules, pause, another end, range tests.

It acts between two rounds alone: advance() is called before the rounds advance, and those stand still while
JobState.held says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.errors import Refused
from optimdpb.specs.checks import STEPS_MAX

from optimd_server.core.effects import ControlRecord, Effect, Keep, PutBackKept, RangeTestTaken, RoundRecord
from optimd_server.core.events import Kept, PutBack, RangeTestRequested, UpdateRequested
from optimd_server.core.range_test import Phase, RangeTest, check_request
from optimd_server.core.rounds import Rounds
from optimd_server.core.state import JobState
from optimd_server.optimizers import Memories
from optimd_server.schedules import PlateauState

NAME_CHARACTERS_MAX = 128


@dataclass(frozen=True)
class PutAside:
    """What the core remembers of the moment before a range test; the shards remember their vectors."""

    rule_count: int
    memories: Memories
    plateau: PlateauState | None
    last_round: RoundRecord | None


class Control:
    """Of one job; state and rounds are shared with the machine that owns them."""

    def __init__(self, state: JobState, rounds: Rounds) -> None:
        self._state = state
        self._rounds = rounds
        self._aside: PutAside | None = None
        self._paused_s: float | None = None

    def update(self, event: UpdateRequested) -> list[Effect]:
        """Take a change. Raises Refused."""
        state = self._state
        self._check_names(event.request_id, event.requester)
        known = state.clock.known(event)
        if known is not None:
            return [known]
        was_finished = state.finished
        if was_finished and event.steps_max is None:
            raise self._wrong_state("FINISHED", "a job that trains, or steps_max above its step")
        test_runs = state.range_test is not None and state.range_test.active
        if test_runs and (event.paused is not False or event.schedules or event.steps_max is not None):
            raise self._wrong_state("RANGE_TEST", "no range test on its way")
        if event.steps_max is not None and not state.step < event.steps_max <= STEPS_MAX:
            message = f"steps_max: expected above the job's step {state.step} and at most 2^53, got {event.steps_max}"
            raise Refused("INVALID_UPDATE", message, field="steps_max")
        change, answer = state.clock.request(event, self._earliest_step())
        if was_finished:
            self._rounds.go_on()
        self.stop_range_test()
        state.note(
            change.words(),
            step=change.at_step,
            requester=event.requester,
            unix_s=event.unix_s,
            revision=change.revision,
        )
        words = f"revision {change.revision} at step {change.at_step}: {change.words()}"
        return [answer, ControlRecord("update", words)]

    def start_range_test(self, event: RangeTestRequested) -> list[Effect]:
        """Take a range test. Raises Refused."""
        state, running = self._state, self._state.range_test
        self._check_names(event.request_id, event.requester)
        check_request(event)
        if running is not None and running.request.request_id == event.request_id:
            if running.asks_for(event):
                return [RangeTestTaken()]
            message = f"request_id: expected a new one, got {event.request_id!r}, which asked for another sweep: "
            raise Refused("INVALID_UPDATE", f"{message}give this one another name", field="request_id")
        if running is not None and running.active:
            raise self._wrong_state("RANGE_TEST", "no range test on its way")
        first, steps_max = self._earliest_step(), state.clock.steps_max
        if steps_max is not None and first >= steps_max:
            raise self._wrong_state("FINISHED", "a job that trains")
        if state.clock.paused_at(first):
            raise self._wrong_state("PAUSED", "a job that trains: resume it first")
        state.range_test = RangeTest(event)
        sweep = f"{event.lr_start:g} to {event.lr_end:g} in {event.steps} steps, {event.sweep}"
        state.note(f"range test: {sweep}", requester=event.requester, unix_s=event.unix_s)
        return [RangeTestTaken(), ControlRecord("range test", sweep)]

    def stop_range_test(self) -> None:
        """End the one that runs, if one does."""
        test = self._state.range_test
        if test is not None and test.active:
            test.finish("stopped", "it was ended early")
            if test.phase is Phase.WANTED:
                self._conclude(test)

    def kept(self, event: Kept) -> list[Effect]:
        """The shards have put their state aside: the sweep begins with the coming round."""
        state, test = self._state, self._test(Phase.KEEPING)
        if not event.done:
            test.finish("no_memory", "there is no memory to put the state aside")
            self._conclude(test)
            return []
        test.first_step = state.step
        test.phase = Phase.ENDING if test.end else Phase.SWEEPING
        self._aside = PutAside(state.rule_count, state.memories, state.clock.plateau, state.last_round)
        return []

    def put_back(self, event: PutBack) -> list[Effect]:
        """The shards have their state of before: so has the core, under a new lineage."""
        state, test, aside = self._state, self._test(Phase.PUTTING_BACK), self._aside
        assert aside is not None
        self._aside = None
        state.step = state.restored_step = event.step
        state.lineage = test.request.lineage
        state.rule_count, state.memories = aside.rule_count, aside.memories
        state.clock.plateau, state.last_round = aside.plateau, aside.last_round
        self._conclude(test)
        return [ControlRecord("put back", state.lineage), *self._rounds.start_over()]

    def _conclude(self, test: RangeTest) -> None:
        test.conclude()
        self._state.note(f"range test over: {test.end}")

    def advance(self, now_s: float) -> list[Effect]:
        """Do what is due between two rounds."""
        state, test = self._state, self._state.range_test
        if self._rounds.closing:
            return []
        if test is not None and test.phase is Phase.WANTED:
            test.phase = Phase.KEEPING
            return [Keep()]
        if test is not None and test.phase is Phase.ENDING:
            test.phase = Phase.PUTTING_BACK
            return [PutBackKept(test.first_step)]
        if test is None or not test.active:
            state.clock.advance(state.step)
            self._count_pause(now_s)
        return []

    @property
    def is_due(self) -> bool:
        """Whether advance() has a step of a range test to make."""
        test = self._state.range_test
        return test is not None and test.phase in (Phase.WANTED, Phase.ENDING) and not self._rounds.closing

    def waiting_for(self) -> str:
        """What the job waits for because of all this, in words; empty if for nothing."""
        test = self._state.range_test
        if test is not None and test.halfway:
            return f"a range test is {test.phase.value}"
        return (
            f"the job is paused at step {self._state.step}: optimd resume lets it go on"
            if self._state.clock.paused
            else ""
        )

    def _count_pause(self, now_s: float) -> None:
        """A pause takes no time from an open round."""
        if self._state.clock.paused:
            self._paused_s = now_s if self._paused_s is None else self._paused_s
        elif self._paused_s is not None:
            self._rounds.extend(now_s - self._paused_s)
            self._paused_s = None

    def _earliest_step(self) -> int:
        """The first step whose update is not made and not on its way."""
        test = self._state.range_test
        if test is not None and test.sweeping:
            return test.first_step
        return self._state.step + 1 if self._rounds.closing else self._state.step

    def _test(self, phase: Phase) -> RangeTest:
        test = self._state.range_test
        assert test is not None and test.phase is phase, f"expected a range test that is {phase.value}"  # noqa: PT018
        return test

    def _check_names(self, request_id: str, requester: str) -> None:
        for field, name, least in (("request_id", request_id, 1), ("requester", requester, 0)):
            if not least <= len(name) <= NAME_CHARACTERS_MAX:
                message = f"{field}: expected {least} to {NAME_CHARACTERS_MAX} characters, got {len(name)}"
                raise Refused("INVALID_UPDATE", message, field=field)

    def _wrong_state(self, state: str, expected: str) -> Refused:
        return Refused("WRONG_STATE", f"expected {expected}, the job is {state}", state=state)
