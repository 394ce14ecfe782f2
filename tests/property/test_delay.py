"""Delay compensation, against numpy to the last bit, over shards, threads, clips, scales and encodings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.core.effects import Apply, Contribution, Prepare
from optimd_server.optimizers import plan_of
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.threads import KernelThreads
from optimdpb.errors import Refused
from optimdpb.specs import SGD, Async, ClipGlobalNorm, JobSpec, Layout, Tensor

from tests.property.one_process import _sum_of_squares

Float32s = NDArray[np.float32]
f32 = np.float32
LAYOUT = Layout((Tensor("w", (9000,)), Tensor("mean", (10,), "buffer"), Tensor("b", (77,))))
TRAINED = np.r_[0:9000, 9010:9087]
LR, NORM_MAX = 0.5, 3.0


def plain(w: Float32s, base: Float32s, g: Float32s, scale: float, strength: float, clip: bool) -> Float32s:
    """One update from the definition: every operation rounded to float32, buffers taken as they come."""
    factor = np.clip(f32(1) + f32(strength) * (g * (w - base)), f32(0), f32(2))
    gradient = f32(scale) * (g * factor)
    gradient[9000:9010] = 0
    if clip:
        norm = math.sqrt(_sum_of_squares(LAYOUT, gradient))
        gradient = f32(NORM_MAX / norm) * gradient if norm > NORM_MAX else gradient
    updated = w - f32(LR) * gradient
    updated[9000:9010] = g[9000:9010]
    return updated


def half(values: Float32s) -> NDArray[np.uint16]:
    """Cut to bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_stale_gradients_are_corrected(shards: int, threads: int, clip: bool, bfloat16: bool) -> None:
    random = np.random.default_rng(5)
    kept, strength = 3, 2.0
    model = Async(staleness_max=kept, delay_compensation=strength)
    spec = JobSpec(LAYOUT, SGD(LR), model, clip=ClipGlobalNorm(NORM_MAX) if clip else None)
    plan, pool = plan_of(spec), KernelThreads(threads)
    group = ShardGroup(spec, plan, shards, threads, 1 << 20)
    w = random.standard_normal(LAYOUT.elements).astype(f32)
    past = [w]
    for shard in group.shards:
        shard.parameters[:] = w[shard.element_start : shard.element_stop]
    for step in range(12):
        delay = min(step, int(random.integers(0, kept + 1)))
        scale = 1 / (1 + delay)
        g = random.standard_normal(LAYOUT.elements).astype(f32)
        sent: NDArray[np.float32] | NDArray[np.uint16] = half(g) if bfloat16 else g
        if bfloat16:
            g = (half(g).astype(np.uint32) << 16).view(f32)
        for shard in group.shards:
            shard.stage("a", 1, sent.dtype)[:] = sent[shard.element_start : shard.element_stop]
        parts = (Contribution("a", 1, step + 1, float(f32(scale)), 1.0, step - delay),)
        limits = plan.limits(group.prepare(Prepare(step, parts), pool.run)[0] if clip else None)
        group.apply(Apply(step, parts, plan.scalars(step, LR, plan.first_memories(), None), limits), pool.run)
        w = plain(w, past[step - delay], g, scale, strength, clip) if delay else _fresh(w, g, clip)
        past.append(w)
        np.testing.assert_array_equal(group.flat_parameters(), w, f"step {step}, delay {delay}")
    pool.close()


def _fresh(w: Float32s, g: Float32s, clip: bool) -> Float32s:
    return plain(w, w, g, 1.0, 1.0, clip)


def test_no_more_versions_are_kept_than_asked_for() -> None:
    spec = JobSpec(LAYOUT, SGD(LR), Async(staleness_max=2, delay_compensation=0.1))
    plan = plan_of(spec)
    group = ShardGroup(spec, plan, 1, 1, 1 << 20)
    (shard,) = group.shards
    for step in range(5):
        shard.stage("a", 1)[:] = 1.0
        parts = (Contribution("a", 1, step + 1, 1.0, 1.0, step),)
        scalars = plan.scalars(step, LR, plan.first_memories(), None)
        group.apply(Apply(step, parts, scalars, plan.limits(None)), KernelThreads.run_inline)
    shard.stage("a", 1)[:] = 1.0
    late = Apply(5, (Contribution("a", 1, 6, 1.0, 1.0, 2),), scalars, plan.limits(None))
    with pytest.raises(Refused, match=r"one of steps \[3, 4\], got 2"):
        group.apply(late, KernelThreads.run_inline)


def test_however_large_the_correction_the_gradient_stays_finite() -> None:
    spec = JobSpec(Layout((Tensor("w", (4,)),)), SGD(LR), Async(staleness_max=1, delay_compensation=1e6))
    plan = plan_of(spec)
    group = ShardGroup(spec, plan, 1, 1, 1 << 20)
    (shard,) = group.shards
    shard.parameters[:] = [1e30, -1e30, 0.0, 1.0]
    for step, values in enumerate(([1e18, 1e18, 0.0, -1e18], [1e18, 1e18, 1e-30, 1e18])):
        shard.stage("a", 1)[:] = values
        parts = (Contribution("a", 1, step + 1, 1.0, 1.0, 0),)
        scalars = plan.scalars(step, LR, plan.first_memories(), None)
        group.apply(Apply(step, parts, scalars, plan.limits(None)), KernelThreads.run_inline)
    assert np.isfinite(group.flat_parameters()).all()
