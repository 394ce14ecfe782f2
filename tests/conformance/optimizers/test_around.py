"""What stands around every rule: groups, frozen tensors, buffers, clips; gradients at the edges of float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.core import arithmetic
from optimd_server.core.arithmetic import Committed
from optimd_server.core.events import Push, Version
from optimdpb.errors import InvalidSpec
from optimdpb.specs import (
    LAMB,
    LARS,
    SGD,
    SWATS,
    AdaBound,
    Clip,
    ClipGlobalNorm,
    ClipTensorNorm,
    ClipValue,
    Constant,
    Group,
    JobSpec,
    Layout,
    Optimizer,
    Sync,
    Tensor,
)

from tests.conformance.optimizers.rows import ROWS, Row, constant_lr
from tests.support.trainer import Part, Trainer, spec_of

Float32s = NDArray[np.float32]

STEPS = 7
LAYOUT = Layout(
    (Tensor("a", (5000,)), Tensor("b", (3, 7)), Tensor("scalar", ()), Tensor("none", (0,)), Tensor("c", (9,)))
)
ELEMENTS = LAYOUT.elements
START = np.random.default_rng(0).standard_normal(ELEMENTS).astype(np.float32)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def spec_for(row: Row) -> Optimizer:
    return row.draw(np.random.default_rng([3, *row.name.encode()]))


def gradients(scale: float = 1.0) -> list[Float32s]:
    rng = np.random.default_rng(1)
    return [(scale * rng.standard_normal(ELEMENTS)).astype(np.float32) for _ in range(STEPS)]


def train(spec: JobSpec, given: Sequence[Float32s], start: Float32s = START) -> Trainer:
    trainer = Trainer(spec, start, shards=2)
    for gradient in given:
        trainer.update(gradient)
    return trainer


def span(tensor: str) -> slice:
    place = [t.name for t in LAYOUT.tensors].index(tensor)
    return slice(LAYOUT.offsets[place], LAYOUT.offsets[place + 1])


def alone(optimizer: Optimizer, tensor: str, given: Sequence[Float32s]) -> Trainer:
    """The tensor as a job of its own."""
    part = span(tensor)
    spec = spec_of(optimizer, Layout(tuple(t for t in LAYOUT.tensors if t.name == tensor)))
    return train(spec, [gradient[part] for gradient in given], START[part])


def assert_same(trainer: Trainer, tensor: str, expected: Trainer) -> None:
    part = span(tensor)
    assert trainer.parameters[part].tobytes() == expected.parameters.tobytes()
    assert trainer.slots[:, part].tobytes() == expected.slots.tobytes()


@every_row
def test_groups_are_jobs_of_their_own(row: Row) -> None:
    """A multiplier, a frozen tensor and the rest: the first match wins, each as if it were alone."""
    base = spec_for(row)
    if isinstance(base, SWATS):  # which switches for the whole job
        base = dataclasses.replace(base, switch_tolerance=0.0)
    groups = (Group("a", lr_multiplier=0.25), Group("[ab]", frozen=True))
    trainer = train(spec_of(base, LAYOUT, groups=groups), gradients())
    slower = dataclasses.replace(base, lr=Constant(0.25 * constant_lr(base)))
    if isinstance(base, AdaBound):  # its bounds follow the learning rate
        slower = dataclasses.replace(slower, final_lr=0.25 * base.final_lr)
    assert_same(trainer, "a", alone(slower, "a", gradients()))
    assert trainer.parameters[span("b")].tobytes() == START[span("b")].tobytes()
    assert not trainer.slots[:, span("b")].any()
    for tensor in ("scalar", "none", "c"):
        assert_same(trainer, tensor, alone(base, tensor, gradients()))


@every_row
def test_any_hyper_parameter_of_a_group(row: Row) -> None:
    base = spec_for(row)
    for field in dataclasses.fields(base):
        value = getattr(base, field.name)
        if not isinstance(value, float) or isinstance(base, SWATS):
            continue  # SWATS decides for the whole job
        other = {field.name: 0.9 * value + 1e-3}
        try:
            changed = dataclasses.replace(base, **other)
        except InvalidSpec:
            continue  # such as dampening with Nesterov
        trainer = train(spec_of(base, LAYOUT, groups=(Group("c", **other),)), gradients())
        assert_same(trainer, "c", alone(changed, "c", gradients()))
        assert_same(trainer, "b", alone(base, "b", gradients()))


def clipped(clip: Clip, gradient: Float32s) -> Float32s:
    """By numpy, in float32; norms in float64."""
    if isinstance(clip, ClipValue):
        return np.clip(gradient, -np.float32(clip.value), np.float32(clip.value))
    parts = [span(tensor.name) for tensor in LAYOUT.tensors] if isinstance(clip, ClipTensorNorm) else [slice(None)]
    result = gradient.copy()
    for part in parts:
        norm = float(np.sqrt(np.sum(gradient[part].astype(np.float64) ** 2)))
        if norm > clip.norm_max:
            result[part] *= np.float32(clip.norm_max / norm)
    return result


@every_row
@pytest.mark.parametrize("clip", [ClipValue(0.5), ClipTensorNorm(1.5), ClipGlobalNorm(1.5)], ids=repr)
def test_a_clip_is_a_smaller_gradient(row: Row, clip: Clip) -> None:
    """Bites in some steps and not in others."""
    given = [gradient * np.float32(0.02 if step % 2 else 3.0) for step, gradient in enumerate(gradients())]
    bitten = [clipped(clip, gradient) for gradient in given]
    assert any(np.array_equal(*pair) for pair in zip(given, bitten, strict=True)) or isinstance(clip, ClipValue)
    trainer, expected = (
        train(spec_of(spec_for(row), LAYOUT, clip), given),
        train(spec_of(spec_for(row), LAYOUT), bitten),
    )
    np.testing.assert_allclose(trainer.parameters, expected.parameters, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(trainer.slots, expected.slots, rtol=1e-5, atol=1e-12)


def test_frozen_tensors_and_buffers_are_not_part_of_the_norm() -> None:
    layout = Layout((Tensor("frozen", (3,)), Tensor("stats", (3,), "buffer"), Tensor("w", (4,))))
    spec = spec_of(SGD(1.0), layout, ClipGlobalNorm(1.0), (Group("frozen", frozen=True),))
    trainer = Trainer(spec, np.zeros(10, np.float32))
    trainer.update(np.array([100.0] * 6 + [1.0] * 4, np.float32))
    assert trainer.parameters.tolist() == [0.0] * 3 + [100.0] * 3 + [-0.5] * 4


@every_row
@pytest.mark.parametrize("workers", [1, 2])
def test_a_frozen_tensor_between_two_of_one_group_stays(row: Row, workers: int) -> None:
    layout = Layout((Tensor("a", (5,)), Tensor("frozen", (3,)), Tensor("b", (2,))))
    trainer = Trainer(spec_of(spec_for(row), layout, groups=(Group("frozen", frozen=True),)), np.ones(10, np.float32))
    for _ in range(2):
        trainer.round([Part(f"w{worker}", 1.0, np.full(10, 0.5, np.float32)) for worker in range(workers)])
    assert trainer.parameters[5:8].tolist() == [1.0] * 3
    assert not trainer.slots[:, 5:8].any()
    assert (trainer.parameters[np.r_[0:5, 8:10]] != 1.0).all()


@every_row
@pytest.mark.parametrize("clip", [None, ClipGlobalNorm(0.1), ClipTensorNorm(0.1), ClipValue(0.1)], ids=repr)
def test_buffers_become_the_mean_by_weight(row: Row, clip: Clip | None) -> None:
    """No rule, no clip; beside them the trained tensors see nothing of them."""
    layout = Layout((Tensor("w", (5,)), Tensor("stats", (3,), "buffer"), Tensor("v", (2,))))
    trainer = Trainer(spec_of(spec_for(row), layout, clip), np.ones(10, np.float32), shards=2)
    without = Trainer(
        spec_of(spec_for(row), Layout((Tensor("w", (5,)), Tensor("v", (2,)))), clip), np.ones(7, np.float32)
    )
    rng, trained = np.random.default_rng(2), np.r_[0:5, 8:10]
    for _ in range(STEPS):
        values = [rng.standard_normal(10).astype(np.float32) for _ in range(2)]
        trainer.round([Part("w0", 1.0, values[0]), Part("w1", 3.0, values[1])])
        without.round([Part("w0", 1.0, values[0][trained]), Part("w1", 3.0, values[1][trained])])
        mean = np.float32(0.25) * values[0] + np.float32(0.75) * values[1]
        assert trainer.parameters[5:8].tobytes() == mean[5:8].tobytes()
        assert trainer.parameters[trained].tobytes() == without.parameters.tobytes()
        assert not trainer.slots[:, 5:8].any()


def test_a_sum_of_gradients_leaves_buffers_a_mean() -> None:
    layout = Layout((Tensor("w", (2,)), Tensor("stats", (2,), "buffer")))
    trainer = Trainer(JobSpec(layout, SGD(1.0), Sync(2), reduction="sum"), np.zeros(4, np.float32))
    pushes = [Committed(Push(f"w{i}", 1, 1, Version("", 0), weight, None), 1.0) for i, weight in enumerate((1.0, 3.0))]
    values = [np.array([1.0, 1.0, 10.0, 20.0], np.float32), np.array([2.0, 2.0, 30.0, 40.0], np.float32)]
    trainer.stage([Part(f"w{i}", 1.0, value) for i, value in enumerate(values)])
    trainer.close_round(arithmetic.contributions(pushes, "sum"))
    assert trainer.parameters.tolist() == [-3.0, -3.0, 25.0, 35.0]


@every_row
def test_zeros_move_nothing(row: Row) -> None:
    """Also before any gradient was seen, where a rule would divide 0 by 0."""
    trainer = train(spec_of(row.tuned.rule(Constant(0.1)), LAYOUT), [np.zeros(ELEMENTS, np.float32)] * 3)
    assert trainer.parameters.tobytes() == START.tobytes()
    trainer = train(spec_of(row.tuned.rule(Constant(0.1)), LAYOUT), [np.full(ELEMENTS, -0.0, np.float32)] * 3)
    assert trainer.parameters.tobytes() == START.tobytes()


@every_row
def test_a_rate_of_zero_moves_nothing(row: Row) -> None:
    trainer = train(spec_of(row.tuned.rule(Constant(0.0)), LAYOUT), gradients())
    assert trainer.parameters.tobytes() == START.tobytes()


@every_row
@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e-20, 1e17, -1e18])
def test_edges_of_float32_stay_finite(row: Row, value: float) -> None:
    """Denormal gradients, and the largest that a round may have; then ordinary ones again."""
    for optimizer in (row.tuned.rule(Constant(0.01)), spec_for(row)):
        trainer = train(spec_of(optimizer, LAYOUT), [np.full(ELEMENTS, value, np.float32)] * 3 + gradients())
        assert np.isfinite(trainer.parameters).all()
        assert np.isfinite(trainer.slots).all()


@pytest.mark.parametrize("optimizer", [LARS(0.1), LAMB(0.1, weight_decay=0.0)], ids=lambda o: type(o).__name__)
def test_trust_ratios_are_1_where_a_norm_is_0(optimizer: Optimizer) -> None:
    layout = Layout((Tensor("zero", (4,)), Tensor("w", (4,))))
    trainer = Trainer(spec_of(optimizer, layout), np.array([0.0] * 4 + [2.0] * 4, np.float32))
    trainer.update(np.ones(8, np.float32))
    assert trainer.parameters[0] == pytest.approx(-0.1), "lr times the direction, which is 1 for both"
    ratio = 1e-3 * 4.0 / 2.0 if isinstance(optimizer, LARS) else 4.0 / 2.0
    assert trainer.parameters[4] == pytest.approx(2.0 - 0.1 * ratio, rel=1e-5)
