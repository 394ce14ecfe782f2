"""SGDW (Loshchilov and Hutter 2019, arXiv:1711.05101): SGD with momentum and decoupled decay.

m = momentum m + g; w -= lr weight_decay w; w -= lr m. Not in torch; the decay follows lr as in torch.optim.AdamW.
"""

from __future__ import annotations

from optimdpb.specs import SGDW

from optimd_server.optimizers import sgdm
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: SGDW, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """As sgdm.scalars."""
    return lr, 0.0, lr * spec.weight_decay, spec.momentum, 1.0, 0.0


RULE = Rule(spec_class=SGDW, slots=("momentum",), scalars=scalars, step=sgdm.RULE.step)
