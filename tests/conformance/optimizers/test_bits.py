"""Every kernel gives the bits of a float32 numpy loop, however its vector is cut, shared out, prepared or clipped."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.core.effects import Contribution
from optimd_server.optimizers import rule_for
from optimd_server.optimizers.kernels import (
    BLOCK_ELEMENTS,
    PIECE_ELEMENTS,
    TILE_ELEMENTS,
    magnitude_max,
    piece_squares,
)
from optimd_server.runtime.threads import KernelThreads
from optimd_server.state import Shard, piece_bounds
from optimdpb.specs import SGD, SGDM, Adam, Layout, Optimizer, Tensor

from tests.property.one_process import Contribution as Part
from tests.property.one_process import OneProcess

Float32s = NDArray[np.float32]

LR = 0.03
RULES: dict[str, Optimizer] = {
    "sgd": SGD(LR),
    "sgd_decay": SGD(LR, weight_decay=1e-2),
    "heavy_ball": SGDM(LR, momentum=0.9, dampening=0.3, weight_decay=1e-3),
    "nesterov": SGDM(LR, momentum=0.7, nesterov=True),
    "lecture_momentum": SGDM(LR, momentum=0.9, form="ema"),
    "adam": Adam(LR, weight_decay=1e-2),
    "lecture_adam": Adam(LR, beta1=0.4, beta2=0.6, eps=0.0, eps_root=1e-8),
}
BORDERS = (TILE_ELEMENTS - 1, TILE_ELEMENTS, TILE_ELEMENTS + 1, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 1)

every_rule = pytest.mark.parametrize("optimizer", RULES.values(), ids=RULES.keys())


def layout_of(elements: int) -> Layout:
    return Layout((Tensor("w", (elements,)),))


def values_of(elements: int, *seed: int) -> Float32s:
    rng = np.random.default_rng([elements, *seed])
    return (rng.standard_normal(elements) * 10.0 ** rng.uniform(-6, 2, elements)).astype(np.float32)


def parts_of(elements: int, count: int, step: int) -> list[Part]:
    return [Part(f"w{i}", float(1 + i * i), values_of(elements, step, i)) for i in range(count)]


def by_loop(optimizer: Optimizer, elements: int, count: int, steps: int, clip_norm: float | None = None) -> OneProcess:
    loop = OneProcess(layout_of(elements), values_of(elements), optimizer, clip_norm)
    for step in range(steps):
        loop.round(parts_of(elements, count, step), LR)
    return loop


def stage(shard: Shard, parts: Sequence[Part]) -> tuple[Contribution, ...]:
    """Put gradients into the shard; what names them in a command."""
    total = sum(part.weight for part in parts)
    for part in parts:
        shard.stage(part.worker, 1)[:] = part.gradient
    return tuple(Contribution(part.worker, 1, 1, float(np.float32(part.weight / total))) for part in parts)


def by_shard(optimizer: Optimizer, elements: int, count: int, steps: int, threads: int = 1) -> Shard:
    shard = Shard(optimizer, piece_bounds(layout_of(elements)), threads)
    shard.parameters[:] = values_of(elements)
    pool = KernelThreads(threads)
    for step in range(steps):
        contributions = stage(shard, parts_of(elements, count, step))
        shard.apply(step, LR, 1.0, step, contributions, pool.run)
    pool.close()
    return shard


def assert_same_bits(shard: Shard, loop: OneProcess) -> None:
    assert shard.parameters.tobytes() == loop.parameters.tobytes()
    assert shard.slots.tobytes() == loop.slots.tobytes()


@every_rule
def test_sizes_1_to_257(optimizer: Optimizer) -> None:
    for elements in range(1, 258):
        assert_same_bits(by_shard(optimizer, elements, 1, 4), by_loop(optimizer, elements, 1, 4))


@every_rule
@pytest.mark.parametrize("elements", BORDERS)
def test_sizes_around_tiles_and_blocks(optimizer: Optimizer, elements: int) -> None:
    assert_same_bits(by_shard(optimizer, elements, 2, 2), by_loop(optimizer, elements, 2, 2))


@every_rule
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads(optimizer: Optimizer, threads: int) -> None:
    elements = 3 * BLOCK_ELEMENTS + 17
    assert_same_bits(by_shard(optimizer, elements, 1, 2, threads), by_loop(optimizer, elements, 1, 2))


@every_rule
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_numbers_of_contributions(optimizer: Optimizer, count: int) -> None:
    assert_same_bits(by_shard(optimizer, 1000, count, 3), by_loop(optimizer, 1000, count, 3))


@every_rule
def test_every_split_of_the_vector(optimizer: Optimizer) -> None:
    elements, rule = 257, rule_for(optimizer)
    gradient, scratch = values_of(elements, 9), np.empty(TILE_ELEMENTS, np.float32)
    addresses, scales = np.array([gradient.ctypes.data], np.uint64), np.array([0.3], np.float32)
    scalars = np.array([rule.scalars(optimizer, 3, LR)], np.float32)

    def run(cuts: list[int]) -> bytes:
        parameters, slots = values_of(elements), np.abs(np.tile(values_of(elements, 8), (len(rule.slots), 1)))
        rows = [(start, stop, 0) for start, stop in itertools.pairwise(cuts)]
        blocks = np.array(rows, np.int64)
        rule.step(parameters, slots, addresses, scales, np.float32(0.7), blocks, 0, 1, scratch, scalars)
        return parameters.tobytes() + slots.tobytes()

    whole = run([0, elements])
    for cut in range(1, elements):
        assert run([0, cut, elements]) == whole, f"cut at {cut}"
    assert run(list(range(elements + 1))) == whole


@every_rule
@pytest.mark.parametrize("clip_norm", [0.5, 1e9])
def test_prepare_then_apply_is_the_fused_apply(optimizer: Optimizer, clip_norm: float) -> None:
    elements = BLOCK_ELEMENTS + 5
    loop = by_loop(optimizer, elements, 3, 1, clip_norm)
    gradient = parts_of(elements, 3, 0)
    norms: list[float] = []
    for prepared in (True, False):
        shard = Shard(optimizer, piece_bounds(layout_of(elements)), 1)
        shard.parameters[:] = values_of(elements)
        contributions = stage(shard, gradient)
        if prepared:
            norms.append(
                float(np.sqrt(np.add.accumulate(shard.prepare(0, contributions, KernelThreads.run_inline))[-1]))
            )
            assert shard.parameters.tobytes() == values_of(elements).tobytes()
            assert not shard.slots.any()
        factor = clip_norm / norms[0] if norms[0] > clip_norm else 1.0
        shard.apply(0, LR, factor, 0, contributions, KernelThreads.run_inline)
        assert_same_bits(shard, loop)


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
    piece_squares(padded, np.array([0, 3, 3 + elements, padded.size], np.int64), 1, 2, sums)
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


@every_rule
def test_extreme_gradients_stay_defined(optimizer: Optimizer) -> None:
    """Zeros, denormals and the largest magnitude a round may have give what the loop gives, and no NaN."""
    for value in (0.0, -0.0, 1e-42, 1e18, -1e18):
        shard = Shard(optimizer, piece_bounds(layout_of(19)), 1)
        shard.parameters[:] = 1.0
        loop = OneProcess(layout_of(19), shard.parameters, optimizer, None)
        for step in range(3):
            part = Part("w0", 1.0, np.full(19, value, np.float32))
            loop.round([part], LR)
            shard.apply(step, LR, 1.0, step, stage(shard, [part]), KernelThreads.run_inline)
        assert_same_bits(shard, loop)
        assert np.isfinite(shard.parameters).all()
        assert np.isfinite(shard.slots).all()


@every_rule
def test_an_update_allocates_nothing_that_stays(optimizer: Optimizer) -> None:
    elements = 100_000
    shard = by_shard(optimizer, elements, 1, 1)
    contributions = stage(shard, parts_of(elements, 1, 0))
    tracemalloc.start()
    try:
        for step in range(1, 1001):
            if step == 11:
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
            shard.apply(step, LR, 1.0, step, contributions, KernelThreads.run_inline)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000
    assert peak - before < 4 * elements / 10, "an update needs no vector beside those that are there"
