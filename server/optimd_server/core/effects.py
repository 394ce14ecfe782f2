"""What a job asks the world to do, as values, in order.

Answers go to callers, commands to shards, records to whoever keeps the history: the records are exactly what a journal
must hold to replay the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from optimd_server.optimizers import Memories
from optimd_server.optimizers.kernels import Float32s


class Status(Enum):
    """What became of a push."""

    APPLIED = "applied"
    DISCARDED = "discarded"
    REJECTED = "rejected"


class Reason(Enum):
    """Why a push was not applied; the names are those of the contract's OutcomeReason."""

    NONE = "none"
    LATE = "late"
    FINISHED = "finished"
    ROUND_VOID = "round_void"
    STALE = "stale"
    LINEAGE_CHANGED = "lineage_changed"
    NON_FINITE = "non_finite"
    TOO_LARGE = "too_large"
    BASE_IN_FUTURE = "base_in_future"
    NOT_A_MEMBER = "not_a_member"


@dataclass(frozen=True)
class Outcome:
    """The stored answer to a push. `rank` is -1 for a worker that is not live; both count the coming round."""

    seq: int
    status: Status
    reason: Reason
    detail: str
    applied_step: int
    learning_rate: float
    staleness: int
    rank: int
    world_size: int


@dataclass(frozen=True)
class UploadNamed:
    """Answer: the caller uploads the initial parameters under this token, within the lease."""

    token: int
    lease_s: float


@dataclass(frozen=True)
class UploadAwaited:
    """Answer: another worker uploads."""


@dataclass(frozen=True)
class AlreadyReady:
    """Answer: the job has its parameters."""


@dataclass(frozen=True)
class BecameReady:
    """The job has its parameters: wake who waits for them."""


@dataclass(frozen=True)
class Joined:
    """Answer: the caller is live under this epoch."""

    worker: str
    epoch: int
    rank: int
    world_size: int


@dataclass(frozen=True)
class Proceed:
    """Answer: read the payload, stage it, then commit."""


@dataclass(frozen=True)
class Pending:
    """Answer: this very push is committed and waits for its round."""


@dataclass(frozen=True)
class Answered:
    """The outcome of a push is there: tell whoever asks."""

    worker: str
    epoch: int
    outcome: Outcome
    duplicate: bool = False


@dataclass(frozen=True)
class DropStaging:
    """What this epoch has staged will never be used (again): free it."""

    worker: str
    epoch: int


@dataclass(frozen=True)
class Contribution:
    """One staged gradient of a round, taken at the parameters of `base_step`.

    `scale` is s_i with staleness, `share` its part by weight, both float32 held in a float.
    """

    worker: str
    epoch: int
    seq: int
    scale: float
    share: float
    base_step: int


@dataclass(frozen=True)
class Prepare:
    """Command: reduce these gradients, in this order, change no state, come back with Prepared.

    Without scalars the sums asked for are the squares of the reduced gradient, else the rule's own, under these rows of
    scalars and limits.
    """

    step: int
    contributions: tuple[Contribution, ...]
    scalars: Float32s | None = None
    limits: Float32s | None = None


@dataclass(frozen=True)
class Apply:
    """Command: apply the update of `step` with these rows of scalars and limits, come back with Applied."""

    step: int
    contributions: tuple[Contribution, ...]
    scalars: Float32s
    limits: Float32s


@dataclass(frozen=True)
class Failed:
    """The job cannot go on: its parameters are spoiled. `problem` says why, in words."""

    problem: str


@dataclass(frozen=True)
class Updated:
    """Answer: the change has this revision and holds from this step on."""

    revision: int
    at_step: int


@dataclass(frozen=True)
class RangeTestTaken:
    """Answer: the range test runs, or has run."""


@dataclass(frozen=True)
class Keep:
    """Command: put parameters and slots aside, come back with Kept."""


@dataclass(frozen=True)
class PutBackKept:
    """Command: parameters and slots are as they were put aside, at `step`; come back with PutBack."""

    step: int


@dataclass(frozen=True)
class RoundRecord:
    """ROUND: one applied update, with the outcome of every push behind it.

    `rule_count` counts the rule's updates before this one; `memories` is what the rule remembers after it;
    `hyper_parameters` are those that are scheduled, lr apart.
    """

    step: int
    learning_rate: float
    rule_count: int
    memories: Memories
    loss: float | None
    contributions: tuple[Contribution, ...]
    outcomes: tuple[tuple[str, int, Outcome], ...]
    hyper_parameters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class OutcomeRecord:
    """OUTCOME: a push that was not applied."""

    worker: str
    epoch: int
    outcome: Outcome


@dataclass(frozen=True)
class MemberRecord:
    """MEMBER: what became of an epoch: "joined", "left", "failed", "expired", "superseded" or "set aside"."""

    worker: str
    epoch: int
    change: str


@dataclass(frozen=True)
class ControlRecord:
    """CONTROL: a change of the job itself.

    "uploader" (value: its token), "ready" (the lineage), "update" (its revision, step and words), "range test" (its
    sweep), "put back" (the lineage).
    """

    change: str
    value: str


Effect = (
    UploadNamed
    | UploadAwaited
    | AlreadyReady
    | BecameReady
    | Joined
    | Proceed
    | Pending
    | Answered
    | DropStaging
    | Prepare
    | Apply
    | Failed
    | Updated
    | RangeTestTaken
    | Keep
    | PutBackKept
    | RoundRecord
    | OutcomeRecord
    | MemberRecord
    | ControlRecord
)
