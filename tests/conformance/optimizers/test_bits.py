"""Every rule gives the same bits however its vector is cut, shared out to threads and shards, prepared or interpreted.

SGD, SGDM and Adam also give the bits of a plain float32 numpy loop.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.optimizers import plan_of
from optimd_server.optimizers.gradients import Sources
from optimd_server.optimizers.kernels import (
    BLOCK_ELEMENTS,
    PIECE_ELEMENTS,
    magnitude_max,
)
from optimd_server.optimizers.loops import piece_squares
from optimdpb.specs import SGD, SGDM, Adam, Clip, ClipGlobalNorm, ClipTensorNorm, ClipValue, Layout, Optimizer, Tensor

from tests.conformance.optimizers.interpreted import digest
from tests.conformance.optimizers.rows import ROWS, Row
from tests.property.one_process import OneProcess
from tests.support.trainer import Part, Trainer, spec_of

Float32s = NDArray[np.float32]

LR = 0.03
LOOPED: dict[str, Optimizer] = {
    "sgd": SGD(LR),
    "sgd_decay": SGD(LR, weight_decay=1e-2),
    "heavy_ball": SGDM(LR, momentum=0.9, dampening=0.3, weight_decay=1e-3),
    "nesterov": SGDM(LR, momentum=0.7, nesterov=True),
    "lecture_momentum": SGDM(LR, momentum=0.9, form="ema"),
    "adam": Adam(LR, weight_decay=1e-2),
    "lecture_adam": Adam(LR, beta1=0.4, beta2=0.6, eps=0.0, eps_root=1e-8),
}
BORDERS = (
    PIECE_ELEMENTS - 1,
    PIECE_ELEMENTS,
    PIECE_ELEMENTS + 1,
    BLOCK_ELEMENTS - 1,
    BLOCK_ELEMENTS,
    BLOCK_ELEMENTS + 1,
)
# Tensor borders off every piece, block and lane border; more than two blocks; a scalar, an empty and a tiny tensor.
UNEVEN = Layout(
    (Tensor("a", (257, 301)), Tensor("scalar", ()), Tensor("none", (0, 3)), Tensor("b", (70_001,)), Tensor("c", (5,)))
)

looped = pytest.mark.parametrize("optimizer", LOOPED.values(), ids=LOOPED.keys())
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def spec_for(row: Row) -> Optimizer:
    """The row's first random specification."""
    return row.draw(np.random.default_rng(list(row.name.encode())))


def values_of(elements: int, *seed: int) -> Float32s:
    rng = np.random.default_rng([elements, *seed])
    return (rng.standard_normal(elements) * 10.0 ** rng.uniform(-6, 2, elements)).astype(np.float32)


def parts_of(elements: int, count: int, step: int) -> list[Part]:
    return [Part(f"w{i}", float(1 + i * i), values_of(elements, step, i)) for i in range(count)]


def train(
    optimizer: Optimizer,
    layout: Layout | int,
    count: int = 1,
    steps: int = 3,
    *,
    shards: int = 1,
    threads: int = 1,
    clip: Clip | None = None,
) -> bytes:
    """Bits of parameters and slots after some rounds of `count` workers."""
    spec = spec_of(optimizer, layout, clip)
    elements = spec.layout.elements
    trainer = Trainer(spec, values_of(elements), shards, threads)
    for step in range(steps):
        trainer.round(parts_of(elements, count, step))
    trainer.close()
    return trainer.parameters.tobytes() + trainer.slots.tobytes()


def by_loop(optimizer: Optimizer, elements: int, count: int, steps: int) -> bytes:
    loop = OneProcess(Layout((Tensor("w", (elements,)),)), values_of(elements), optimizer, None)
    for step in range(steps):
        loop.round(parts_of(elements, count, step), LR)  # type: ignore[arg-type]
    return loop.parameters.tobytes() + loop.slots.tobytes()


@looped
def test_sizes_1_to_257(optimizer: Optimizer) -> None:
    for elements in range(1, 258):
        assert train(optimizer, elements) == by_loop(optimizer, elements, 1, 3)


@looped
@pytest.mark.parametrize("elements", BORDERS)
def test_sizes_around_pieces_and_blocks(optimizer: Optimizer, elements: int) -> None:
    assert train(optimizer, elements, 2, 2) == by_loop(optimizer, elements, 2, 2)


@looped
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9])
def test_numbers_of_contributions(optimizer: Optimizer, count: int) -> None:
    assert train(optimizer, 1000, count) == by_loop(optimizer, 1000, count, 3)


@pytest.mark.parametrize("narrow", [0b1, 0b11, 0b01010, 0b10000, 0b111111111])
@pytest.mark.parametrize("clip", [None, ClipValue(0.1)], ids=["plain", "clipped"])
def test_bfloat16_is_read_as_the_float32_it_is(narrow: int, clip: Clip | None) -> None:
    """Workers whose bit is set send bfloat16, the others float32."""
    elements, results = BLOCK_ELEMENTS + 77, []
    for in_place in (True, False):
        trainer = Trainer(spec_of(Adam(LR), elements, clip), values_of(elements))
        for step in range(2):
            parts = []
            for place in range(narrow.bit_length()):
                bits = values_of(elements, step, place).view(np.uint32)
                if narrow >> place & 1:
                    halves = (bits >> 16).astype(np.uint16)
                    gradient = halves if in_place else (halves.astype(np.uint32) << 16).view(np.float32)
                else:
                    gradient = bits.view(np.float32)
                parts.append(Part(f"w{place}", 1.0 + place, gradient))
            trainer.round(parts)
        results.append(trainer.parameters.tobytes() + trainer.slots.tobytes())
    assert results[0] == results[1]


@every_row
@pytest.mark.parametrize("clip", [None, ClipGlobalNorm(0.5), ClipTensorNorm(0.5)], ids=["plain", "global", "tensor"])
def test_shards_and_threads(row: Row, clip: Clip | None) -> None:
    optimizer = spec_for(row)
    whole = train(optimizer, UNEVEN, 3, clip=clip)
    for shards, threads in ((1, 2), (2, 1), (3, 3), (5, 2)):
        assert train(optimizer, UNEVEN, 3, shards=shards, threads=threads, clip=clip) == whole, (shards, threads)


@every_row
def test_every_split_of_the_vector(row: Row) -> None:
    elements, optimizer = 257, spec_for(row)
    plan = plan_of(spec_of(optimizer, elements))
    gradient, scratch = values_of(elements, 9), np.empty(BLOCK_ELEMENTS, np.float32)
    sources = Sources(np.array([gradient.ctypes.data], np.uint64), np.array([0.3], np.float32), np.array([4]))
    memories = plan.remember(3, LR, plan.first_memories(), np.ones((2, 1)))
    scalars = plan.scalars(3, LR, memories, np.ones((2, 1)))
    limits = np.array([[0.7, 20.0]], np.float32)

    def run(cuts: list[int]) -> bytes:
        parameters, slots = values_of(elements), np.abs(np.tile(values_of(elements, 8), (len(plan.rule.slots), 1)))
        blocks = np.array([(start, stop, 0) for start, stop in itertools.pairwise(cuts)], np.int64)
        plan.rule.step(parameters, slots, *sources, limits, blocks, 0, len(blocks), scratch, scalars)
        assert np.isfinite(parameters).all()
        return parameters.tobytes() + slots.tobytes()

    whole = run([0, elements])
    for cut in range(1, elements):
        assert run([0, cut, elements]) == whole, f"cut at {cut}"
    assert run(list(range(elements + 1))) == whole


@every_row
def test_prepare_then_apply_is_the_fused_apply(row: Row) -> None:
    """A clip that never bites makes a round reduce first; the bits are those of the one pass."""
    optimizer = spec_for(row)
    assert train(optimizer, UNEVEN, 3, clip=ClipGlobalNorm(1e30)) == train(optimizer, UNEVEN, 3)


def test_compiled_kernels_give_the_bits_of_interpreted_ones() -> None:
    """No fused multiply-add, no reassociation, no wider intermediate: Python's own float32 is the witness."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "tests.conformance.optimizers.interpreted"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert dict(line.split() for line in result.stdout.splitlines()) == {row.name: digest(row) for row in ROWS}


def squares_by_transcription(values: Float32s) -> float:
    """16 lanes in float64, element i in lane i mod 16, lanes added from the first to the last."""
    lanes = [0.0] * 16
    for i, value in enumerate(values):
        lanes[i % 16] += float(value) * float(value)
    total = 0.0
    for lane in lanes:
        total += lane
    return total


@pytest.mark.parametrize("elements", [0, 1, 15, 16, 17, 31, 257, PIECE_ELEMENTS])
def test_sums_of_squares_are_added_in_the_promised_order(elements: int) -> None:
    values, sums = values_of(elements), np.full(3, -1.0)
    padded = np.concatenate([values_of(3), values, values_of(5)])
    sources = Sources(np.array([padded.ctypes.data], np.uint64), np.ones(1, np.float32), np.array([4]))
    pieces = np.array([0, 3, 3 + elements, padded.size], np.int64)
    piece_squares(*sources, pieces, 1, 2, np.empty(PIECE_ELEMENTS, np.float32), sums)
    assert sums.tolist() == [-1.0, squares_by_transcription(values), -1.0]


def test_the_order_of_sums_shows_in_the_values_used() -> None:
    values = values_of(PIECE_ELEMENTS)
    assert squares_by_transcription(values) != squares_by_transcription(values[::-1])


@pytest.mark.parametrize(
    ("values", "largest"),
    [
        ([], 0.0),
        ([0.0, -0.0], 0.0),
        ([-3.0, 2.0], 3.0),
        ([1e-45, -1e-40], float(np.float32(1e-40))),
        ([3.4028235e38, 1.0], float(np.float32(3.4028235e38))),
        ([1.0, np.inf], np.inf),
        ([-np.inf], np.inf),
        ([1.0, np.nan, 2.0], np.inf),
        ([np.float32(-np.nan)], np.inf),
    ],
)
def test_magnitude_max(values: list[float], largest: float) -> None:
    array = np.array(values, np.float32)
    assert magnitude_max(array) == largest
    for place in (0, 7, 100, 256):
        padded = np.zeros(257 + len(values), np.float32)
        padded[place : place + len(values)] = array
        assert magnitude_max(padded) == largest
        halves = (padded.view(np.uint32) >> 16).astype(np.uint16)
        rounded = (halves.astype(np.uint32) << 16).view(np.float32)
        assert magnitude_max(halves) == (np.abs(rounded).max() if np.isfinite(rounded).all() else np.inf)


@every_row
def test_an_update_allocates_nothing_that_stays(row: Row) -> None:
    elements, bytes_max = 100_000, 160_000  # less than half of a vector
    trainer = Trainer(spec_of(spec_for(row), elements), values_of(elements))
    part = parts_of(elements, 1, 0)
    before = 0
    tracemalloc.start()
    try:
        for step in range(400):
            if step == 10:
                gc.collect()  # what loading a kernel left
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
            trainer.round(part)
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The interpreter keeps up to 2,000 freed tuples of a size, about 100 kB.
    assert after - before < bytes_max
    assert peak - before < bytes_max, "an update needs no vector beside those that are there"
