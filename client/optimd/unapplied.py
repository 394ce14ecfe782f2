"""Telling a training loop that its pushes do not count, before it has trained for nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from optimdpb.errors import JobReplaced, OptimdError, PushesNotApplied
from optimdpb.v1 import optimd_pb2 as pb

from optimd.delivery import Answer
from optimd.session import Session

log = logging.getLogger(__name__)

ON_REJECTED = ("raise", "warn", "ignore")
# So many running end the training.
RUNNING_MAX = 5
# What a quorum, a timeout or staleness_max do to a slow worker on purpose.
_OF_SLOWNESS = (pb.OUTCOME_REASON_LATE, pb.OUTCOME_REASON_STALE)


class Unapplied:
    """The pushes of one worker that were rejected or discarded. on_rejected: see connect()."""

    def __init__(self, session: Session, on_rejected: str) -> None:
        if on_rejected not in ON_REJECTED:
            raise ValueError(f"expected on_rejected of {ON_REJECTED}, got {on_rejected!r}")
        self._is_off = False
        self._session = session
        self._on_rejected = on_rejected
        self.begin()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Meanwhile they are meant to be, as in a range test."""
        self._is_off = True
        try:
            yield
        finally:
            self._is_off = False

    def begin(self) -> None:
        """What follows is another training."""
        self._told: set[tuple[int, int]] = set()
        self._running = 0
        self._was_finished = False
        self._base: pb.Version | None = None
        self._at: pb.Version | pb.Header | None = None

    def pulled(self, version: pb.Version) -> None:
        """These parameters came; warns if they do not go on from what was known."""
        before, self._at = self._at, version
        if before is not None and before.lineage != version.lineage:
            self._warn(self._change(before, version)[0])

    def pushed(self, base: pb.Version, answer: Answer) -> None:
        """A push taken at `base` has its outcome. Raises PushesNotApplied, JobReplaced."""
        outcome, header = answer.outcome, answer.header
        before, self._at = self._at, header
        base_before, self._base = self._base, base
        was_finished, self._was_finished = self._was_finished, answer.finished
        if outcome.status == pb.OUTCOME_STATUS_APPLIED:
            self._running = 0
        elif outcome.reason == pb.OUTCOME_REASON_FINISHED:
            if was_finished:  # who stops once result.finished is true cannot help the first
                self._warn_once(outcome, "stop once result.finished is true")
        elif outcome.reason == pb.OUTCOME_REASON_LINEAGE_CHANGED:
            known = before if before is not None and before.lineage == base.lineage else base
            text, is_another = self._change(known, self._at)
            if is_another and self._on_rejected == "raise" and not self._is_off:
                raise JobReplaced(text)
            self._warn(text)
        else:
            self._warn_once(outcome, f"connect(on_rejected={self._on_rejected!r})")
            if outcome.reason not in _OF_SLOWNESS or base == base_before:
                self._count(outcome)

    def _count(self, outcome: pb.Outcome) -> None:
        self._running += 1
        if self._running < RUNNING_MAX or self._on_rejected != "raise" or self._is_off:
            return
        self._running = 0
        reason = pb.OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_").lower()
        text = f"{RUNNING_MAX} pushes of this worker running came to nothing, the last one: {_words(outcome)}"
        if outcome.reason in _OF_SLOWNESS:
            text += "; all were taken at the same parameters: pull between pushes"
        raise PushesNotApplied(f"{text} (on_rejected='warn' or 'ignore' goes on)", reason)

    def _warn_once(self, outcome: pb.Outcome, remedy: str) -> None:
        kind = outcome.status, outcome.reason
        if kind not in self._told and self._on_rejected != "ignore" and not self._is_off:
            self._told.add(kind)
            text = "job %r: a push does not count, %s; more of the same are not told: %s"
            log.warning(text, self._session.job, _words(outcome), remedy)

    def _warn(self, text: str) -> None:
        if self._on_rejected != "ignore" and not self._is_off:
            log.warning("%s", text)

    def _change(self, before: pb.Version | pb.Header, now: pb.Version | pb.Header) -> tuple[str, bool]:
        """What became of the history that the worker knew, in words, and whether the job is another one."""
        job = f"job {self._session.job!r}"
        try:
            report = self._session.call("GetJob", pb.GetJobRequest(job=self._session.job))
        except OptimdError:
            changes = []
        else:
            changes = [entry.change for entry in report.history if entry.lineage == now.lineage]
        if "ready" in changes:
            text = (
                f"{job} that this worker trained to step {before.step} is gone: the server has a new one of that name,"
            )
            return f"{text} at step {now.step}. Pull, or call ensure_job(), to train that one from there", True
        why = f" ({changes[0]})" if changes else ""
        lost = f"steps lost: {before.step - now.step}" if before.step > now.step else "no step lost"
        return (
            f"{job} was at step {before.step} and goes on under another lineage at step {now.step}{why}, {lost}",
            False,
        )


def _words(outcome: pb.Outcome) -> str:
    status = pb.OutcomeStatus.Name(outcome.status).removeprefix("OUTCOME_STATUS_").lower()
    reason = pb.OutcomeReason.Name(outcome.reason).removeprefix("OUTCOME_REASON_").lower()
    return f"{status} ({reason}): {outcome.detail}"
