"""One error of every class that the library raises, as it is raised, for processes that import them by name."""

from __future__ import annotations

from typing import Any, NoReturn

from optimd.commands.status import UnknownJob
from optimdpb import errors
from optimdpb.errors import OptimdError, Refused
from optimdpb.program.ending import Failed

LOCAL: dict[str, OptimdError] = {
    type(error).__name__: error
    for error in (
        errors.OptimdError("anything"),
        errors.Refused("BACKLOG_FULL", "try again", bytes=12),
        errors.InvalidSpec("optimizer.beta1", "expected a number from 0 to below 1, got 2.0"),
        errors.InvalidLayout("w", "tensor 'w': expected a numpy array, got list"),
        errors.InvalidGradient("gradient 'w': expected shape (2,), got (3,)", tensor="w"),
        errors.JobMismatch("optimizer.lr.lr", 0.1, 0.2),
        errors.EpochSuperseded("w0", 3, 4),
        errors.LeaseExpired("w0", 3),
        errors.WorkerSetAside("w0", 3, 5),
        errors.SnapshotRefused("/data/j/7", "expected crc32c 1, got 2: it was changed"),
        errors.NotServed("method Stage"),
        errors.ServerUnavailable("the server cannot be reached"),
        errors.OutcomeUnknown("the outcome of push 7 is not known"),
        errors.PushesNotApplied("5 pushes came to nothing", "too_large"),
        errors.JobReplaced("the job is gone"),
        errors.ForkedWorker("connect again"),
        UnknownJob("no job 'j'"),
        Failed("NOT_AGREED", "nothing was deleted"),
    )
}


def from_wire(error: Refused) -> Refused:
    """The same as a client makes it of what the server has sent."""
    return Refused.from_reason(error.reason, str(error), error.metadata)


def raise_error(name: str, *, wire: bool) -> NoReturn:
    """Raise the error of that class."""
    error = LOCAL[name]
    raise from_wire(error) if wire and isinstance(error, Refused) else error


def attributes(error: BaseException) -> dict[str, Any]:
    """What a handler can ask it for."""
    names = (name for name in dir(error) if not name.startswith("_") and name not in dir(Exception))
    return {name: value for name in names if not callable(value := getattr(error, name))}
