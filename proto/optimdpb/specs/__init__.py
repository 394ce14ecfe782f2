"""Specifications as frozen dataclasses that validate: rules, schedules, consistency models, layouts, jobs.

Pure values: no I/O, no grpc, no protobuf. `optimdpb.codec` turns them into messages and back. A class and its message
have the same name and the same field names.
"""

from optimdpb.specs.consistency import Consistency, Sync
from optimdpb.specs.job import ClipGlobalNorm, JobSpec
from optimdpb.specs.layout import Layout, Tensor
from optimdpb.specs.optimizers import SGD, SGDM, Adam, Optimizer
from optimdpb.specs.schedules import Constant, Cosine, Linear, Schedule, Warmup

__all__ = [
    "SGD",
    "SGDM",
    "Adam",
    "ClipGlobalNorm",
    "Consistency",
    "Constant",
    "Cosine",
    "JobSpec",
    "Layout",
    "Linear",
    "Optimizer",
    "Schedule",
    "Sync",
    "Tensor",
    "Warmup",
]
