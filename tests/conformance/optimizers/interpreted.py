"""A fingerprint of what every rule does; `python -m` prints it, with NUMBA_DISABLE_JIT=1 of uncompiled kernels."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
from optimdpb.specs import ClipGlobalNorm, Layout, Tensor

from tests.conformance.optimizers.rows import ROWS, Row
from tests.support.trainer import Part, Trainer, spec_of

LAYOUT = Layout((Tensor("a", (7, 3)), Tensor("b", ()), Tensor("c", (0,)), Tensor("d", (11,))))
STEPS = 8


def digest(row: Row) -> str:
    """SHA-256 of parameters and slots after rounds of three workers, half of them clipped."""
    rng = np.random.default_rng(list(row.name.encode()))
    spec = spec_of(row.draw(rng), LAYOUT, ClipGlobalNorm(2.0))
    trainer = Trainer(spec, rng.standard_normal(LAYOUT.elements).astype(np.float32), shards=2)
    for _ in range(STEPS):
        scale = 10.0 ** rng.uniform(-2, 1)
        narrow = (_gradient(rng, scale).view(np.uint32) >> 16).astype(np.uint16)
        trainer.round([Part("w0", 1.0, narrow), *(Part(f"w{i}", i + 0.5, _gradient(rng, scale)) for i in (1, 2))])
    return hashlib.sha256(trainer.parameters.tobytes() + trainer.slots.tobytes()).hexdigest()


def _gradient(rng: np.random.Generator, scale: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (scale * rng.standard_normal(LAYOUT.elements)).astype(np.float32)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # numpy warns of float32 overflow in scalar arithmetic, the kernels do not
    for table_row in ROWS:
        print(table_row.name, digest(table_row))
