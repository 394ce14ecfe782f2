"""What happens to one job, in the server's log: who came and went, and which pushes came to nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from optimd_server.core.effects import MemberRecord, Outcome, Status
from optimd_server.core.state import JobState
from optimd_server.runtime.reports import Reports

log = logging.getLogger(__name__)

_LEVELS = {"joined": logging.INFO, "left": logging.INFO}


class Journal:
    """Of one job. Each line names the job, its step, and the worker's epoch, where there is one."""

    def __init__(self, job: str, state: JobState, clock: Callable[[], float]) -> None:
        self._job = job
        self._state = state
        self._reports = Reports(log, clock)
        self._rounds_void = 0

    def member(self, record: MemberRecord) -> None:
        """An epoch began or ended."""
        self._reports.say(
            _LEVELS.get(record.change, logging.WARNING),
            (record.change, record.worker),
            "job %s, step %d: worker %s, epoch %d: %s",
            self._job,
            self._state.step,
            record.worker,
            record.epoch,
            record.change,
        )

    def outcome(self, worker: str, epoch: int, outcome: Outcome) -> None:
        """A push was not applied."""
        self._reports.say(
            logging.WARNING if outcome.status is Status.REJECTED else logging.INFO,
            outcome.reason,
            "job %s, step %d: push of worker %s, epoch %d, seq %d: %s, %s: %s",
            self._job,
            self._state.step,
            worker,
            epoch,
            outcome.seq,
            outcome.status.name,
            outcome.reason.name,
            outcome.detail,
        )
        if self._state.counters.rounds_void > self._rounds_void:
            self._rounds_void = self._state.counters.rounds_void
            text = "job %s, step %d: the round is void, the %d. of this job"
            self._reports.say(logging.WARNING, "void", text, self._job, self._state.step, self._rounds_void)
