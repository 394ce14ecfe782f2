"""The Python client of optimd, the optimizer daemon.

    with optimd.connect("127.0.0.1:50051", job="digits", worker="w0") as worker:
        worker.ensure_job(parameters=..., optimizer=optimd.Adam(lr=1e-3), consistency=optimd.Sync(workers=4))
        params = worker.pull()
        result = worker.step(gradients, weight=len(batch), loss=loss)

`optimd.ray` starts servers inside Ray; it needs the extra of that name.
"""

from importlib.metadata import version as _version

from optimdpb.errors import (
    EpochSuperseded,
    ForkedWorker,
    InvalidGradient,
    InvalidLayout,
    InvalidSpec,
    JobMismatch,
    LeaseExpired,
    NotServed,
    OptimdError,
    OutcomeUnknown,
    Refused,
    ServerUnavailable,
    WorkerSetAside,
)
from optimdpb.specs import (
    LAMB,
    LARS,
    SGD,
    SGDM,
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
    Group,
    Linear,
    Lion,
    NAdam,
    RAdam,
    RMSProp,
    Ssp,
    Sync,
    Warmup,
    Yogi,
)

from optimd.results import JobStatus, PushResult, StepResult, WorkerStatus
from optimd.worker import Worker, connect

__version__ = _version("optimd")

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "SGDM",
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
    "ClipGlobalNorm",
    "ClipTensorNorm",
    "ClipValue",
    "Constant",
    "Cosine",
    "EpochSuperseded",
    "ForkedWorker",
    "Group",
    "InvalidGradient",
    "InvalidLayout",
    "InvalidSpec",
    "JobMismatch",
    "JobStatus",
    "LeaseExpired",
    "Linear",
    "Lion",
    "NAdam",
    "NotServed",
    "OptimdError",
    "OutcomeUnknown",
    "PushResult",
    "RAdam",
    "RMSProp",
    "Refused",
    "ServerUnavailable",
    "Ssp",
    "StepResult",
    "Sync",
    "Warmup",
    "Worker",
    "WorkerSetAside",
    "WorkerStatus",
    "Yogi",
    "connect",
]
