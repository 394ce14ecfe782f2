"""Update rules, one file each, in order of growing complexity. Pure: arrays and scalars in, arrays changed in place.

A rule is written once: its specification in optimdpb.specs, its file here with RULE at the end, and its line below.
"""

from optimdpb.errors import NotServed
from optimdpb.specs import Optimizer

from optimd_server.optimizers import adam, sgd, sgdm
from optimd_server.optimizers.rule import Rule

RULES: tuple[Rule, ...] = (sgd.RULE, sgdm.RULE, adam.RULE)


def rule_for(spec: Optimizer) -> Rule:
    """The rule that carries out a specification. Raises NotServed."""
    for rule in RULES:
        if type(spec) is rule.spec_class:
            return rule
    raise NotServed(f"optimizer {type(spec).__name__}")


__all__ = ["RULES", "Rule", "rule_for"]
