"""Specifications as frozen dataclasses that validate: rules, schedules, consistency models, layouts, jobs.

Pure values: no I/O, no grpc, no protobuf. `optimdpb.codec` turns them into messages and back. A class and its message
have the same name and the same field names.
"""

from optimdpb.specs.adaptive import (
    LAMB,
    SWATS,
    AdaBound,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AMSGrad,
    NAdam,
    RAdam,
    RMSProp,
    Yogi,
)
from optimdpb.specs.clips import Clip, ClipGlobalNorm, ClipTensorNorm, ClipValue
from optimdpb.specs.compound import Plateau, Sequence, Table, Warmup
from optimdpb.specs.consistency import Async, Consistency, Ssp, Sync
from optimdpb.specs.cycles import SGDR, Cyclical, OneCycle, WarmupStableDecay
from optimdpb.specs.groups import Group
from optimdpb.specs.job import JobSpec
from optimdpb.specs.layout import Layout, Tensor
from optimdpb.specs.optimizers import LARS, SGD, SGDM, SGDW, Lion, Optimizer
from optimdpb.specs.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Schedule,
    Step,
)
from optimdpb.specs.spellings import understand

for _each in list(vars().values()):
    if isinstance(_each, type) and issubclass(_each, Optimizer | Schedule) and _each not in (Optimizer, Schedule):
        understand(_each)
del _each

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
    "Clip",
    "ClipGlobalNorm",
    "ClipTensorNorm",
    "ClipValue",
    "Consistency",
    "Constant",
    "Cosine",
    "Cyclical",
    "Exponential",
    "Group",
    "InverseSqrt",
    "JobSpec",
    "Layout",
    "Linear",
    "Lion",
    "MultiStep",
    "NAdam",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "Polynomial",
    "RAdam",
    "RMSProp",
    "Schedule",
    "Sequence",
    "Ssp",
    "Step",
    "Sync",
    "Table",
    "Tensor",
    "Warmup",
    "WarmupStableDecay",
    "Yogi",
]
