"""Gradients that are scanned together are reduced in the same pass: the same bits, and the same largest elements."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.core.effects import Apply, Contribution, Prepare
from optimd_server.optimizers.gradients import _stream
from optimd_server.optimizers.kernels import magnitude_max
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.threads import KernelThreads
from optimdpb.specs import Adam, ClipGlobalNorm, Group, Layout, Tensor

from tests.support.trainer import Trainer, spec_of

Float32s = NDArray[np.float32]
# Odd, so that runs start and end at odd places of a cache line.
LAYOUT = Layout((Tensor("w", (40_001,)), Tensor("b", (7,)), Tensor("c", (70_003,))))
START = np.linspace(-1, 1, LAYOUT.elements).astype(np.float32)
WEIGHTS = (0.1, 0.4, 0.3, 0.2, 0.7)


def gradient(seed: int) -> Float32s:
    return np.random.default_rng(seed).standard_normal(LAYOUT.elements).astype(np.float32)


def parts_of(count: int, step: int) -> tuple[Contribution, ...]:
    return tuple(
        Contribution(f"w{i}", 1, 1, float(np.float32(weight)), float(np.float32(weight)), step)
        for i, weight in enumerate(WEIGHTS[:count])
    )


def staged(trainer: Trainer, count: int, halves: int | None) -> ShardGroup:
    """Gradients in shared memory; number `halves` came in bfloat16."""
    for i in range(count):
        if i == halves:
            bits = (gradient(i).view(np.uint32) >> 16).astype(np.uint16)
            write(trainer.group, f"w{i}", bits)
        else:
            trainer.group.adopt(f"w{i}", 1, gradient(i))
    return trainer.group


def write(group: ShardGroup, worker: str, bits: NDArray[np.uint16]) -> None:
    for shard in group.shards:
        shard.stage(worker, 1, np.uint16)[:] = bits[shard.element_start : shard.element_stop]


def update(trainer: Trainer, parts: tuple[Contribution, ...], clip: bool) -> bytes:
    """One round on its shards; all bits of it."""
    plan, group, run = trainer.plan, trainer.group, trainer._run
    limits = plan.limits(group.prepare(Prepare(0, parts), run)[0]) if clip else plan.limits(None)
    scalars = plan.scalars(0, 0.01, plan.first_memories(), None)
    group.apply(Apply(0, parts, scalars, limits), run)
    return trainer.parameters.tobytes() + trainer.slots.tobytes()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("halves", [None, 1])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize(("shards", "threads"), [(1, 1), (1, 2), (3, 2)])
def test_the_bits_are_those_of_the_plain_way(
    shards: int, threads: int, count: int, halves: int | None, clip: bool
) -> None:
    spec = spec_of(Adam(0.01), LAYOUT, ClipGlobalNorm(1.0) if clip else None)
    results = []
    for foreseen in (False, True):
        trainer = Trainer(spec, START, shards, threads)
        group, parts = staged(trainer, count, halves), parts_of(count, 0)
        assert group.trains_all
        if foreseen:
            scanned = [i for i in range(count) if i != halves]
            found = group.foresight(parts, scanned)(trainer._run)
            assert found == [magnitude_max(gradient(i)) for i in scanned]
            group.foreseen(0, parts)
            for i in range(count):  # only the reduction is read from here on
                values = group.staged.get((f"w{i}", 1))
                if values is not None:
                    values.values[:] = np.nan  # type: ignore[attr-defined]
        results.append(update(trainer, parts, clip))
        trainer.close()
    assert results[0] == results[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 40_000, 40_004, LAYOUT.elements - 1])
def test_what_is_not_finite_is_found(bad: float, place: int) -> None:
    trainer = Trainer(spec_of(Adam(0.01), LAYOUT), START, 2, 1)
    group = staged(trainer, 3, None)
    values = gradient(1)
    values[place] = bad
    group.adopt("w1", 1, values)
    found = group.foresight(parts_of(3, 0), [0, 1, 2])(trainer._run)
    assert found == [magnitude_max(gradient(0)), np.inf, magnitude_max(gradient(2))]


def test_another_round_than_foreseen_has_nothing_of_it() -> None:
    """One push less, another weight, another step, another gradient under the same seq."""
    spec = spec_of(Adam(0.01), LAYOUT)
    plain = Trainer(spec, START)
    staged(plain, 3, None)
    expected = update(plain, parts_of(2, 0), clip=False)
    for case in ("fewer", "weights", "step", "again"):
        trainer = Trainer(spec, START)
        group, parts = staged(trainer, 3, None), parts_of(2, 0)
        others = {
            "fewer": parts_of(3, 0),
            "weights": tuple(Contribution(p.worker, p.epoch, p.seq, 0.5, 0.5, 0) for p in parts),
        }
        if case == "again":
            group.adopt("w1", 1, gradient(99))
        foreseen = others.get(case, parts)
        group.foresight(foreseen, [0])(trainer._run)
        group.foreseen(1 if case == "step" else 0, foreseen)
        if case == "again":
            group.adopt("w1", 1, gradient(1))
        assert update(trainer, parts, clip=False) == expected, case


def test_it_is_not_done_where_some_elements_are_not_trained() -> None:
    for spec in (
        spec_of(Adam(0.01), LAYOUT, groups=[Group("b", frozen=True)]),
        spec_of(Adam(0.01), Layout((Tensor("w", (9,)), Tensor("mean", (3,), "buffer")))),
    ):
        assert not Trainer(spec, np.zeros(spec.layout.elements, np.float32)).group.trains_all


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 31, 100])
def test_a_run_is_streamed_whole_whatever_its_address(count: int) -> None:
    source = np.arange(1, 200, dtype=np.float32)
    for start in range(17):
        for shift in range(3):
            target = np.zeros(150, np.float32)
            _stream(target[start : start + count], source[shift : shift + count])
            expected = np.zeros(150, np.float32)
            expected[start : start + count] = source[shift : shift + count]
            assert target.tobytes() == expected.tobytes()


def test_threads_share_it() -> None:
    """As often as it takes to see a write that another thread made too late."""
    pool = KernelThreads(2)
    trainer = Trainer(spec_of(Adam(0.01), LAYOUT), START, 1, 2)
    group, parts = staged(trainer, 2, None), parts_of(2, 0)
    expected = np.float32(parts[0].scale) * gradient(0) + np.float32(parts[1].scale) * gradient(1)
    for _ in range(200):
        group.foresight(parts, [0, 1])(pool.run)
        reduced = group.shards[0]._reduced
        assert reduced is not None
        assert np.array_equal(reduced, expected)
        reduced[:] = 0.0
    pool.close()
    trainer.close()
