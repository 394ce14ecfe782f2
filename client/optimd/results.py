"""What calls of a worker return."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from optimdpb.codec import schedule_from_proto
from optimdpb.errors import Refused
from optimdpb.specs.text import schedule_to_text
from optimdpb.v1 import optimd_pb2 as pb

Parameters = dict[str, NDArray[np.float32]]
_STATUSES: dict[int, str] = {
    number: name.removeprefix("OUTCOME_STATUS_").lower() for name, number in pb.OutcomeStatus.items()
}
_REASONS: dict[int, str | None] = {
    number: name.removeprefix("OUTCOME_REASON_").lower() if number else None
    for name, number in pb.OutcomeReason.items()
}


@dataclass(frozen=True)
class PushResult:
    """What became of a push, and where the job is now.

    global_step: updates applied by now. learning_rate: of the update, or of the coming one if the push was not applied.
    status: "applied", "discarded" or "rejected"; reason: why not applied, such as "late", else None. staleness: steps
    between the base version and the update. rank, world_size: this worker's place in the coming round, for slicing
    data; rank is -1 for a worker that is not live. finished: whether the job has reached steps_max.
    """

    global_step: int
    learning_rate: float
    status: str
    reason: str | None
    staleness: int
    rank: int
    world_size: int
    finished: bool


@dataclass(frozen=True)
class StepResult(PushResult):
    """A push result with the parameters pulled after it: fresh, writable arrays that belong to the caller."""

    parameters: Parameters


@dataclass(frozen=True)
class WorkerStatus:
    """One live worker of a job.

    member: whether the open round counts it. rejections: of its pushes, since one was applied: a worker that computes
    nonsense. transport: how its payloads travel, "grpc" or "shared_memory", and why so in words; "" until it has said.
    last_push_ago_s: since its last push that was taken, or since it joined. idle_s: how long its program had not called
    its client when it last said so, None if it has not.
    """

    worker: str
    epoch: int
    rank: int
    last_seq: int
    member: bool
    lease_left_s: float
    rejections: int
    transport: str = ""
    transport_detail: str = ""
    last_push_ago_s: float = 0.0
    idle_s: float | None = None


@dataclass(frozen=True)
class HistoryEntry:
    """One change of a job, in words, and the step from which it holds.

    requester: who asked for it, "" for what the server did by itself; unix_s: when, 0 if not known; revision: 0 for
    what was no request.
    """

    change: str
    lineage: str
    step: int
    requester: str
    unix_s: float
    revision: int


@dataclass(frozen=True)
class JobStatus:
    """A job as an observer sees it. learning_rate and loss are those of the last applied round, None before it.

    revision: rises with every change; schedules: those in force as text, by hyper-parameter; history: the last 1,000
    changes in the order of their asking; failure: of a failed job, what went wrong. workers_left_out, history_left_out:
    workers behind those here, and changes before those here, that did not fit the server's answer. steps_max: the
    global step at which it finishes, None for never.
    """

    state: str
    lineage: str
    global_step: int
    learning_rate: float | None
    loss: float | None
    applied: int
    discarded: int
    rejected: int
    duplicates: int
    rounds_void: int
    workers: tuple[WorkerStatus, ...]
    waiting_for: str
    revision: int = 0
    schedules: dict[str, str] = field(default_factory=dict)
    history: tuple[HistoryEntry, ...] = ()
    failure: str = ""
    workers_left_out: int = 0
    history_left_out: int = 0
    steps_max: int | None = None


def status_from_proto(message: pb.GetJobResponse) -> JobStatus:
    """A job's status from its message."""
    last = message.last_round if message.HasField("last_round") else None
    counters = message.counters
    return JobStatus(
        state=pb.JobState.Name(message.state).removeprefix("JOB_STATE_").lower(),
        lineage=message.header.lineage,
        global_step=message.header.step,
        learning_rate=last.learning_rate if last else None,
        loss=last.loss if last and last.HasField("loss") else None,
        applied=counters.applied,
        discarded=counters.discarded,
        rejected=counters.rejected,
        duplicates=counters.duplicates,
        rounds_void=counters.rounds_void,
        workers=tuple(
            WorkerStatus(
                worker.worker,
                worker.epoch,
                worker.rank,
                worker.last_seq,
                worker.member,
                worker.lease_left.ToMilliseconds() / 1000,
                worker.rejections,
                _transport_name(worker.transport),
                worker.transport_detail,
                worker.last_push_ago.ToMilliseconds() / 1000,
                worker.idle.ToMilliseconds() / 1000 if worker.HasField("idle") else None,
            )
            for worker in message.workers
        ),
        waiting_for=message.waiting_for,
        revision=message.revision,
        schedules={name: _schedule_text(message.schedules[name]) for name in sorted(message.schedules)},
        history=tuple(
            HistoryEntry(entry.change, entry.lineage, entry.step, entry.requester, entry.unix_s, entry.revision)
            for entry in message.history
        ),
        failure=message.failure,
        workers_left_out=message.workers_left_out,
        history_left_out=message.history_left_out,
        steps_max=message.steps_max if message.HasField("steps_max") else None,
    )


def _transport_name(number: int) -> str:
    if number == pb.TRANSPORT_UNSPECIFIED or number not in pb.Transport.values():
        return ""
    return pb.Transport.Name(number).removeprefix("TRANSPORT_").lower()


def _schedule_text(message: pb.Schedule) -> str:
    try:
        return schedule_to_text(schedule_from_proto(message))
    except Refused:  # of a newer server
        return "of a kind that this client does not know"


def push_result(outcome: pb.Outcome, header: pb.Header, finished: bool) -> PushResult:
    """A push's result from its messages."""
    return PushResult(
        global_step=header.step,
        learning_rate=outcome.learning_rate,
        status=_STATUSES[outcome.status],
        reason=_REASONS.get(outcome.reason, "other"),
        staleness=outcome.staleness,
        rank=outcome.rank,
        world_size=outcome.world_size,
        finished=finished,
    )
