"""The error tree of optimd, shared by server and client.

OptimdError
├── Refused                 a request was refused and changed nothing; `reason` is a stable word of the contract
│   ├── InvalidSpec         a rule, schedule, consistency model or layout is unknown or out of range (a ValueError)
│   ├── InvalidGradient     a gradient does not fit the layout (a ValueError); raised by clients before sending
│   ├── JobMismatch         the job exists with another specification
│   ├── EpochSuperseded     another process took over this worker's name; fatal
│   ├── LeaseExpired        the membership ran out; join again
│   ├── WorkerSetAside          too many pushes running were rejected; fatal
│   ├── SnapshotRefused     a snapshot is damaged, of something else, or newer than the program
│   └── NotServed           in the contract, but not served yet
├── ServerUnavailable       the server could not be reached in the time given; nothing is known to have happened
├── OutcomeUnknown          a push was sent and its outcome could not be learned in the time given
├── PushesNotApplied        several pushes running were rejected or discarded; `reason` of the last one
├── JobReplaced             the job that a worker trained is gone, the server has a new one of its name
└── ForkedWorker            a connection was carried across a fork
"""

from __future__ import annotations

from typing import Any, ClassVar

# One status for each reason; the names are those of grpc.StatusCode. The contract states the same table.
STATUS_OF_REASON: dict[str, str] = {
    "MALFORMED_REQUEST": "INVALID_ARGUMENT",
    "INVALID_NAME": "INVALID_ARGUMENT",
    "INVALID_LAYOUT": "INVALID_ARGUMENT",
    "INVALID_SPEC": "INVALID_ARGUMENT",
    "LIMIT_EXCEEDED": "INVALID_ARGUMENT",
    "UNKNOWN_JOB": "NOT_FOUND",
    "JOB_NOT_READY": "FAILED_PRECONDITION",
    "JOB_MISMATCH": "FAILED_PRECONDITION",
    "LAYOUT_MISMATCH": "FAILED_PRECONDITION",
    "NOT_UPLOADER": "FAILED_PRECONDITION",
    "PAYLOAD_SIZE_MISMATCH": "INVALID_ARGUMENT",
    "CHUNK_OUT_OF_ORDER": "INVALID_ARGUMENT",
    "CHECKSUM_MISMATCH": "DATA_LOSS",
    "NON_FINITE_PARAMETERS": "INVALID_ARGUMENT",
    "UNSUPPORTED_ENCODING": "UNIMPLEMENTED",
    "NOT_SERVED": "UNIMPLEMENTED",
    "NOT_JOINED": "FAILED_PRECONDITION",
    "EPOCH_SUPERSEDED": "FAILED_PRECONDITION",
    "LEASE_EXPIRED": "FAILED_PRECONDITION",
    "WORKER_SET_ASIDE": "FAILED_PRECONDITION",
    "SEQ_GAP": "FAILED_PRECONDITION",
    "SEQ_FORGOTTEN": "OUT_OF_RANGE",
    "PUSH_IN_FLIGHT": "FAILED_PRECONDITION",
    "PUSH_SUPERSEDED": "ABORTED",
    "INVALID_PUSH": "INVALID_ARGUMENT",
    "BACKLOG_FULL": "RESOURCE_EXHAUSTED",
    "SHUTTING_DOWN": "UNAVAILABLE",
    "REVISION_MISMATCH": "ABORTED",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "PERMISSION_DENIED": "PERMISSION_DENIED",
    "INTERNAL": "INTERNAL",
    "NO_DATA_DIRECTORY": "FAILED_PRECONDITION",
    "STORAGE_FAILED": "FAILED_PRECONDITION",
    "SNAPSHOT_REFUSED": "DATA_LOSS",
    "STEP_PASSED": "FAILED_PRECONDITION",
    "WRONG_STATE": "FAILED_PRECONDITION",
    "INVALID_UPDATE": "INVALID_ARGUMENT",
    "NO_RANGE_TEST": "NOT_FOUND",
    "SHARED_MEMORY_UNAVAILABLE": "FAILED_PRECONDITION",
    "SHARED_MEMORY_GONE": "FAILED_PRECONDITION",
    "PULL_TOO_SLOW": "UNAVAILABLE",
    "PUSH_TOO_SLOW": "UNAVAILABLE",
    "STARTING_UP": "UNAVAILABLE",
    "JOB_FAILED": "FAILED_PRECONDITION",
    "JOB_DELETED": "NOT_FOUND",
}


class OptimdError(Exception):
    """Base of every error optimd raises on purpose. All of them can be pickled and copied, with their attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Exceptions are rebuilt by a call of their class with `args`, which are not what our constructors take."""
        return _rebuilt, (type(self), self.args), self.__dict__


def _rebuilt(error_class: type[OptimdError], args: tuple[Any, ...]) -> OptimdError:
    """An error of that class without its constructor; its attributes follow."""
    return error_class.__new__(error_class, *args)


class Refused(OptimdError):
    """A request was refused and changed nothing.

    `reason` is a key of STATUS_OF_REASON; `metadata` holds every dynamic value of the message as text. Further
    attributes are read from these, so that an error from the wire has the same as one that was raised here.
    """

    _class_of_reason: ClassVar[dict[str, type[Refused]]] = {}
    reason: str
    message: str
    metadata: dict[str, str]

    def __init__(self, reason: str, message: str, **metadata: object) -> None:
        if reason not in STATUS_OF_REASON:
            raise AssertionError(f"reason {reason!r} is not in the contract")
        super().__init__(message)
        self._fill(reason, message, {key: str(value) for key, value in metadata.items()})

    def _fill(self, reason: str, message: str, metadata: dict[str, str]) -> None:
        self.reason = reason
        self.message = message  # str() of an error that Ray has wrapped is a traceback
        self.metadata = metadata

    @staticmethod
    def from_reason(reason: str, message: str, metadata: dict[str, str]) -> Refused:
        """Rebuild the most specific error of a reason that came over the wire."""
        error_class = Refused._class_of_reason.get(reason, Refused)
        error = error_class.__new__(error_class)
        Exception.__init__(error, message)
        error._fill(reason, message, dict(metadata))
        return error


class InvalidSpec(Refused, ValueError):
    """A specification is unknown or out of range; `field` is its path, such as "optimizer.beta1"."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__("INVALID_SPEC", f"{field}: {message}", field=field)

    @property
    def field(self) -> str:
        """Path of what is wrong; "" if the server did not say."""
        return self.metadata.get("field", "")

    @property
    def problem(self) -> str:
        """What is wrong with it: the message without the path."""
        return self.message.removeprefix(f"{self.field}: ")


class InvalidLayout(Refused, ValueError):
    """A layout is unusable."""

    def __init__(self, tensor: str, message: str) -> None:
        super().__init__("INVALID_LAYOUT", message, tensor=tensor)


class InvalidGradient(Refused, ValueError):
    """A gradient does not fit the layout; raised by clients before anything is sent."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__("INVALID_PUSH", message, **metadata)


class JobMismatch(Refused):
    """The job exists with another specification; the first difference is in the message."""

    def __init__(self, field: str, expected: object, got: object) -> None:
        super().__init__(
            "JOB_MISMATCH",
            f"the job exists with another {field}: it has {expected}, the request has {got}. {_ways_out(field)}",
            field=field,
            expected=expected,
            got=got,
        )

    @property
    def field(self) -> str:
        """Path of the first difference; "" if the server did not say."""
        return self.metadata.get("field", "")


def _ways_out(field: str) -> str:
    """What whoever meets this difference can do."""
    ways = "Take another job name, or replace the job: ensure_job(..., if_exists='replace'), optimd delete-job"
    if field == "steps_max":
        return (
            f"{ways}. To make it longer: optimd set-steps, worker.set_steps(), then create it with the same steps_max"
        )
    if field.startswith(("optimizer.lr", "optimizer.schedules")):
        return (
            f"{ways}. To go on with another schedule: optimd set-lr, worker.set_schedules(), then create it with that"
        )
    return ways


class EpochSuperseded(Refused):
    """Another process joined under this worker's name; this one must stop."""

    def __init__(self, worker: str, epoch: int, current_epoch: int) -> None:
        super().__init__(
            "EPOCH_SUPERSEDED",
            f"worker {worker!r} joined again: epoch {epoch} was superseded by {current_epoch}",
            worker=worker,
            epoch=epoch,
            current_epoch=current_epoch,
        )


class LeaseExpired(Refused):
    """The membership ran out without a sign of life; join again."""

    def __init__(self, worker: str, epoch: int) -> None:
        super().__init__(
            "LEASE_EXPIRED",
            f"the lease of worker {worker!r}, epoch {epoch}, has expired: join again",
            worker=worker,
            epoch=epoch,
        )


class WorkerSetAside(Refused):
    """The worker's pushes were rejected as often running as the job allows; mend it, then join again."""

    def __init__(self, worker: str, epoch: int, rejections: int) -> None:
        super().__init__(
            "WORKER_SET_ASIDE",
            f"worker {worker!r}, epoch {epoch}, was set aside: {rejections} of its pushes were rejected running",
            worker=worker,
            epoch=epoch,
            rejections=rejections,
        )


class SnapshotRefused(Refused):
    """A snapshot is damaged, of something else, or of a newer program: it is never loaded in part or in doubt."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__("SNAPSHOT_REFUSED", f"snapshot {path}: {problem}", path=path)


class NotServed(Refused):
    """The feature is in the contract but this server does not serve it yet."""

    def __init__(self, feature: str) -> None:
        super().__init__("NOT_SERVED", f"{feature} is not served yet", feature=feature)


class ServerUnavailable(OptimdError):
    """The server could not be reached in the time given."""


class OutcomeUnknown(OptimdError):
    """A push was sent and its outcome could not be learned in the time given: it may or may not count."""


class PushesNotApplied(OptimdError):
    """Several pushes running were rejected or discarded: the worker trains nothing. `reason`: of the last one."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class JobReplaced(OptimdError):
    """The job that this worker trained is gone, and the server has a new one of its name: pull to train that one."""


class ForkedWorker(OptimdError):
    """A connected worker was used in a forked child; connect again there."""


Refused._class_of_reason.update(
    INVALID_SPEC=InvalidSpec,
    INVALID_LAYOUT=InvalidLayout,
    INVALID_PUSH=InvalidGradient,
    JOB_MISMATCH=JobMismatch,
    EPOCH_SUPERSEDED=EpochSuperseded,
    LEASE_EXPIRED=LeaseExpired,
    WORKER_SET_ASIDE=WorkerSetAside,
    NOT_SERVED=NotServed,
    SNAPSHOT_REFUSED=SnapshotRefused,
)
