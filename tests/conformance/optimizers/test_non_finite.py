"""Every rule tells when its update leaves a parameter infinite or NaN, wherever it lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optimd_server.core.effects import Apply
from optimd_server.optimizers.kernels import BLOCK_ELEMENTS
from optimdpb.specs import SGD, ClipGlobalNorm, JobSpec, Layout, Sync, Tensor

from tests.conformance.optimizers.rows import ROWS, Row
from tests.support.trainer import Part, Trainer, spec_of

# A block, what is left of a vector of eight lanes, and one element alone.
ELEMENTS = BLOCK_ELEMENTS + 13
PLACES = (0, 1, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, ELEMENTS - 1)
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def finite_after(trainer: Trainer, gradients: list[np.ndarray[tuple[int], np.dtype[np.float32]]]) -> bool:
    """What apply() says of a round of these gradients."""
    said: list[bool] = []
    real = trainer.group.apply

    def apply(command: Apply, run: object) -> bool:
        said.append(real(command, run))  # type: ignore[arg-type]
        return said[-1]

    trainer.group.apply = apply  # type: ignore[method-assign]
    trainer.round([Part(f"w{i}", 1.0, gradient) for i, gradient in enumerate(gradients)])
    assert said == [bool(np.isfinite(trainer.parameters).all())]
    return said[0]


def trainer_of(row: Row, clip: ClipGlobalNorm | None = None, shards: int = 1, threads: int = 1) -> Trainer:
    spec = spec_of(row.draw(np.random.default_rng([7, *row.name.encode()])), ELEMENTS, clip)
    return Trainer(spec, np.random.default_rng(0).standard_normal(ELEMENTS).astype(np.float32), shards, threads)


@every_row
@pytest.mark.parametrize("workers", [1, 2])
def test_an_update_of_numbers_is_finite(row: Row, workers: int) -> None:
    gradient = np.random.default_rng(1).standard_normal(ELEMENTS).astype(np.float32)
    assert finite_after(trainer_of(row, shards=2, threads=2), [gradient] * workers)


@every_row
def test_one_bad_parameter_is_found_wherever_it_lies(row: Row) -> None:
    """It turns bad behind the check of gradients, as memory does that a worker still writes to."""
    gradient = np.random.default_rng(1).standard_normal(ELEMENTS).astype(np.float32)
    for place in PLACES:
        for bad in (np.nan, np.inf, -np.inf):
            trainer = trainer_of(row)
            for shard in trainer.group.shards:
                shard.parameters[place] = bad
            assert not finite_after(trainer, [gradient])


def test_a_step_beyond_float32_is_found() -> None:
    trainer = Trainer(spec_of(SGD(1e21), 3), np.zeros(3, np.float32))
    assert not finite_after(trainer, [np.array([1.0, 0.0, 1e18], np.float32)])


def test_a_bad_buffer_is_found() -> None:
    layout = Layout((Tensor("w", (2,)), Tensor("mean", (2,), "buffer")))
    trainer = Trainer(JobSpec(layout, SGD(0.1), Sync(1)), np.zeros(4, np.float32))
    assert not finite_after(trainer, [np.array([0.0, 0.0, 1.0, np.nan], np.float32)])


def test_asked_again_about_an_update_a_shard_says_the_same() -> None:
    trainer = Trainer(spec_of(SGD(1.0), 2), np.zeros(2, np.float32))
    parts = trainer.stage([Part("w0", 1.0, np.array([np.inf, 0.0], np.float32))])
    command = Apply(0, parts, np.array([[1.0, 0.0]], np.float32), np.array([[1.0, math.inf]], np.float32))
    assert [trainer.group.apply(command, trainer._run) for _ in range(2)] == [False, False]
