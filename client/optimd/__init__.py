"""The Python client of optimd, the optimizer daemon.

    with optimd.connect("127.0.0.1:50051", job="digits", worker="w0") as worker:
        worker.ensure_job(parameters, optimizer=optimd.Adam(lr=1e-3), consistency=optimd.Sync(workers=1))
        params = worker.pull()
        result = worker.step(gradients, weight=len(batch), loss=loss)
        worker.set_schedules({"lr": optimd.SGDR(1e-3, 1e-5, period=500)}, at_step=2000)

`optimd.ray` starts servers inside Ray; it needs the extra of that name, and is imported when it is first used.
"""

import typing as _typing
from importlib import import_module as _import_module
from importlib.metadata import version as _version
from importlib.util import find_spec as _find_spec

from optimdpb.errors import (
    EpochSuperseded,
    ForkedWorker,
    InvalidGradient,
    InvalidLayout,
    InvalidSpec,
    JobMismatch,
    JobReplaced,
    LeaseExpired,
    NotServed,
    OptimdError,
    OutcomeUnknown,
    PushesNotApplied,
    Refused,
    ServerUnavailable,
    WorkerSetAside,
)
from optimdpb.specs import (
    LAMB,
    LARS,
    SGD,
    SGDM,
    SGDR,
    SGDW,
    SWATS,
    AdaBound,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AMSGrad,
    Async,
    ClipGlobalNorm,
    ClipTensorNorm,
    ClipValue,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    Group,
    InverseSqrt,
    Linear,
    Lion,
    MultiStep,
    NAdam,
    OneCycle,
    Plateau,
    Polynomial,
    RAdam,
    RMSProp,
    Sequence,
    Ssp,
    Step,
    Sync,
    Table,
    Warmup,
    WarmupStableDecay,
    Yogi,
)

from optimd.changes import Change
from optimd.creation import JobStart
from optimd.grouping import groups
from optimd.range_test import RangeTestResult
from optimd.results import HistoryEntry, JobStatus, PushResult, StepResult, WorkerStatus
from optimd.worker import Worker, connect

if _typing.TYPE_CHECKING:
    from optimd import ray as ray
else:  # a checker that saw __getattr__ would take every misspelt name

    def __getattr__(name: str) -> object:
        if name in _ON_DEMAND:
            return _import_module(f"optimd.{name}")
        raise AttributeError(f"module 'optimd' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *filter(_find_spec, _ON_DEMAND)})


__version__ = _version("optimd")
# Modules of the client that need the package of their name.
_ON_DEMAND = ("ray",)

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "SGDM",
    "SGDR",
    "SGDW",
    "SWATS",
    "AMSGrad",
    "AdaBound",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Async",
    "Change",
    "ClipGlobalNorm",
    "ClipTensorNorm",
    "ClipValue",
    "Constant",
    "Cosine",
    "Cyclical",
    "EpochSuperseded",
    "Exponential",
    "ForkedWorker",
    "Group",
    "HistoryEntry",
    "InvalidGradient",
    "InvalidLayout",
    "InvalidSpec",
    "InverseSqrt",
    "JobMismatch",
    "JobReplaced",
    "JobStart",
    "JobStatus",
    "LeaseExpired",
    "Linear",
    "Lion",
    "MultiStep",
    "NAdam",
    "NotServed",
    "OneCycle",
    "OptimdError",
    "OutcomeUnknown",
    "Plateau",
    "Polynomial",
    "PushResult",
    "PushesNotApplied",
    "RAdam",
    "RMSProp",
    "RangeTestResult",
    "Refused",
    "Sequence",
    "ServerUnavailable",
    "Ssp",
    "Step",
    "StepResult",
    "Sync",
    "Table",
    "Warmup",
    "WarmupStableDecay",
    "Worker",
    "WorkerSetAside",
    "WorkerStatus",
    "Yogi",
    "connect",
    "groups",
]
