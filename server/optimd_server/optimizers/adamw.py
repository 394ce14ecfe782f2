"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101): w -= lr weight_decay w, then Adam's step on g without decay.

As torch.optim.AdamW where eps_root = 0.
"""

from __future__ import annotations

from optimdpb.specs import AdamW

from optimd_server.optimizers import adam
from optimd_server.optimizers.rule import Memory, Rule


def scalars(spec: AdamW, k: int, lr: float, memory: Memory) -> tuple[float, ...]:
    """As adam.scalars."""
    return 0.0, lr * spec.weight_decay, *adam.moments(spec, k, lr)


RULE = Rule(spec_class=AdamW, slots=("exp_avg", "exp_avg_sq"), scalars=scalars, step=adam.RULE.step)
