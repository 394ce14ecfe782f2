"""Update rules, one file each, in order of growing complexity. Pure: arrays and scalars in, arrays changed in place.

A rule is written once: its specification in optimdpb.specs, its file here with RULE at the end, and its place below.
"""

from optimdpb.specs import JobSpec

from optimd_server.optimizers import (
    adabound,
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    amsgrad,
    lamb,
    lars,
    lion,
    nadam,
    radam,
    rmsprop,
    sgd,
    sgdm,
    sgdw,
    swats,
    yogi,
)
from optimd_server.optimizers.plan import NO_ROW, Memories, Plan
from optimd_server.optimizers.rule import Memory, Rule

RULES: tuple[Rule, ...] = tuple(
    module.RULE
    for module in (
        sgd,
        sgdm,
        sgdw,
        adagrad,
        rmsprop,
        adadelta,
        adam,
        adamw,
        amsgrad,
        adamax,
        nadam,
        radam,
        yogi,
        adabound,
        lion,
        swats,
        lars,
        lamb,
    )
)


def plan_of(spec: JobSpec) -> Plan:
    """The rule of a job laid over its tensors. Raises NotServed."""
    return Plan(spec, RULES)


__all__ = ["NO_ROW", "RULES", "Memories", "Memory", "Plan", "Rule", "plan_of"]
