"""What happens to a job, as values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optimdpb.specs import Schedule


@dataclass(frozen=True)
class Version:
    """One state of the parameters."""

    lineage: str
    step: int


@dataclass(frozen=True)
class Push:
    """The header of one gradient. `weight` is above 0; `loss` is None if not reported."""

    worker: str
    epoch: int
    seq: int
    base: Version
    weight: float
    loss: float | None = None


@dataclass(frozen=True)
class CreateRequested:
    """A worker wants the job to exist. Answered by UploadNamed, UploadAwaited or AlreadyReady."""

    worker: str


@dataclass(frozen=True)
class UploadProgressed:
    """Bytes of the initial parameters arrived under a token."""

    token: int


@dataclass(frozen=True)
class UploadCompleted:
    """All initial parameters are in place. `lineage` is a fresh random id."""

    token: int
    lineage: str


@dataclass(frozen=True)
class JoinRequested:
    """A worker wants to be a member. Answered by Joined."""

    worker: str


@dataclass(frozen=True)
class LeaveRequested:
    """A member is done, or, if it failed, gives up its membership with work left."""

    worker: str
    epoch: int
    failed: bool = False


@dataclass(frozen=True)
class SignOfLife:
    """A member was heard of. idle_s: how long its program has not called its client; None if it does not say."""

    worker: str
    epoch: int
    idle_s: float | None = None


@dataclass(frozen=True)
class PushOffered:
    """A push's header arrived, its payload has not been read. Answered by Proceed, Pending or Answered."""

    push: Push


@dataclass(frozen=True)
class PushCommitted:
    """A push's whole payload is staged. `magnitude_max` is its largest |element|, infinity if one is not finite."""

    push: Push
    magnitude_max: float


@dataclass(frozen=True)
class Prepared:
    """The shards measured the round's gradients. `sums`: (1 or 2, piece), over the pieces of the layout in order."""

    step: int
    sums: NDArray[np.float64]


@dataclass(frozen=True)
class Applied:
    """Every shard has applied the update of `step`. finite: it left no parameter infinite or NaN."""

    step: int
    finite: bool = True


@dataclass(frozen=True)
class UpdateRequested:
    """Somebody wants other schedules from a step on, the job to pause or go on, or another end. Answered by Updated.

    at_step: None for the earliest; paused, steps_max: None leaves that as it is; unix_s: when it was asked for.
    """

    request_id: str
    requester: str
    unix_s: float
    expected_revision: int | None
    at_step: int | None
    schedules: tuple[tuple[str, Schedule], ...]
    paused: bool | None
    steps_max: int | None = None


@dataclass(frozen=True)
class RangeTestRequested:
    """Somebody wants a range test: `steps` updates from lr_start to lr_end, "exponential" or "linear".

    `lineage` is a fresh random id, for the parameters that are put back at its end.
    """

    request_id: str
    requester: str
    unix_s: float
    lr_start: float
    lr_end: float
    steps: int
    sweep: str
    lineage: str


@dataclass(frozen=True)
class HaltRequested:
    """The server ends: no round opens or closes any more, and a range test, if one runs, ends now."""


@dataclass(frozen=True)
class Kept:
    """Every shard has put its state aside; or, for want of memory, none has."""

    done: bool


@dataclass(frozen=True)
class PutBack:
    """Every shard has its state of before, at `step`."""

    step: int


@dataclass(frozen=True)
class Ticked:
    """Time passed. The runtime sends one every tick_interval_s."""


Event = (
    CreateRequested
    | UploadProgressed
    | UploadCompleted
    | JoinRequested
    | LeaveRequested
    | SignOfLife
    | PushOffered
    | PushCommitted
    | Prepared
    | Applied
    | UpdateRequested
    | RangeTestRequested
    | HaltRequested
    | Kept
    | PutBack
    | Ticked
)
