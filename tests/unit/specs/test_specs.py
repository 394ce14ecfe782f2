"""Specifications refuse what makes no sense, by field, and survive the wire unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimdpb import specs
from optimdpb.codec import job_spec_from_proto, job_spec_to_proto
from optimdpb.errors import InvalidLayout, InvalidSpec
from optimdpb.specs import (
    SGD,
    SGDM,
    Adam,
    ClipGlobalNorm,
    Constant,
    Cosine,
    Group,
    JobSpec,
    Layout,
    Linear,
    Optimizer,
    Schedule,
    Sequence,
    Sync,
    Tensor,
    Warmup,
)
from optimdpb.specs.job import first_difference
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.contract import names_a_field

LAYOUT = Layout((Tensor("w", (2, 3)),))
SMALL: dict[str, Any] = {"layout": LAYOUT, "optimizer": Adam(0.1), "consistency": Sync(2)}


def deep(depth: int) -> Schedule:
    schedule: Schedule = Constant(0.1)
    for _ in range(depth - 1):
        schedule = Warmup(schedule, 5)
    return schedule


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("lr", lambda: SGD(-1.0)),
        ("lr", lambda: SGD(math.nan)),
        ("lr", lambda: SGD("0.1")),
        ("lr", lambda: SGD(True)),
        ("lr", lambda: SGD(np.float64(math.inf))),
        ("weight_decay", lambda: SGD(0.1, weight_decay=-1e-9)),
        ("weight_decay", lambda: SGD(0.1, weight_decay=None)),
        ("momentum", lambda: SGDM(0.1, momentum=1.0)),
        ("momentum", lambda: SGDM(0.1, momentum=-0.1)),
        ("dampening", lambda: SGDM(0.1, dampening=1.1)),
        ("dampening", lambda: SGDM(0.1, dampening=0.1, form="ema")),
        ("nesterov", lambda: SGDM(0.1, nesterov=True, form="ema")),
        ("nesterov", lambda: SGDM(0.1, nesterov=True, dampening=0.5)),
        ("nesterov", lambda: SGDM(0.1, nesterov=True, momentum=0.0)),
        ("nesterov", lambda: SGDM(0.1, nesterov=1)),
        ("form", lambda: SGDM(0.1, form="torch")),
        ("beta1", lambda: Adam(0.1, beta1=1.0)),
        ("beta2", lambda: Adam(0.1, beta2=-0.5)),
        ("beta2", lambda: Adam(0.1, beta2=math.nan)),
        ("eps", lambda: Adam(0.1, eps=-1e-8)),
        ("eps_root", lambda: Adam(0.1, eps_root=math.inf)),
        ("steps", lambda: Linear(0.1, 0.2, steps=0)),
        ("steps", lambda: Linear(0.1, 0.2, steps=1.5)),
        ("steps", lambda: Linear(0.1, 0.2, steps=True)),
        ("lr_end", lambda: Linear(0.1, -0.2, steps=5)),
        ("lr_max", lambda: Cosine(0.1, 0.2, steps=5)),
        ("schedule", lambda: Warmup("linear", 5)),
        ("schedule", lambda: deep(9)),
        ("workers", lambda: Sync(0)),
        ("workers", lambda: Sync(1.0)),
        ("workers_min", lambda: Sync(2, workers_min=3)),
        ("workers_min", lambda: Sync(2, workers_min=0)),
        ("quorum", lambda: Sync(2, quorum=0)),
        ("round_timeout_s", lambda: Sync(2, round_timeout_s=0.0)),
        ("norm_max", lambda: ClipGlobalNorm(0.0)),
        ("norm_max", lambda: ClipGlobalNorm(math.nan)),
        ("optimizer", lambda: JobSpec(LAYOUT, "adam", Sync(1))),
        ("consistency", lambda: JobSpec(LAYOUT, SGD(0.1), 4)),
        ("layout", lambda: JobSpec({"w": (2,)}, SGD(0.1), Sync(1))),
        ("reduction", lambda: JobSpec(LAYOUT, SGD(0.1), Sync(1), reduction="max")),
        ("clip", lambda: JobSpec(LAYOUT, SGD(0.1), Sync(1), clip=1.0)),
        ("steps_max", lambda: JobSpec(LAYOUT, SGD(0.1), Sync(1), steps_max=0)),
    ],
)
def test_refused_by_field(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(InvalidSpec, match="expected") as caught:
        make()
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("tensor", "make"),
    [
        ("", lambda: Layout(())),
        ("w", lambda: Layout((Tensor("w", (1,)), Tensor("w", (2,))))),
        ("", lambda: Tensor("", (1,))),
        ("a\tb", lambda: Tensor("a\tb", (1,))),
        ("é" * 101, lambda: Tensor("é" * 101, (1,))),
        ("w", lambda: Tensor("w", (2, -1))),
        ("w", lambda: Tensor("w", (2**53 + 1,))),
        ("w", lambda: Tensor("w", (1,) * 33)),
        ("w", lambda: Tensor("w", (1,), kind="frozen")),
    ],
)
def test_refused_layouts(tensor: str, make: Callable[[], object]) -> None:
    with pytest.raises(InvalidLayout) as caught:
        make()
    assert caught.value.metadata == {"tensor": tensor}


def test_a_layout_is_one_flat_vector() -> None:
    layout = Layout((Tensor("a", (2, 3)), Tensor("scalar", ()), Tensor("none", (0, 7)), Tensor("é", (5,))))
    assert layout.offsets == (0, 6, 7, 7, 12)
    assert (layout.elements, layout.size_bytes) == (12, 48)


def test_the_digest_is_the_one_the_contract_describes() -> None:
    layout = Layout((Tensor("a", (2, 3)), Tensor("é", ())))
    written = struct.pack("<I", 1) + b"a" + struct.pack("<BIqq", 1, 2, 2, 3)
    written += struct.pack("<I", 2) + "é".encode() + struct.pack("<BI", 1, 0)
    assert layout.digest == hashlib.sha256(written).digest()


@pytest.mark.parametrize(
    "other",
    [
        Layout((Tensor("w", (3, 2)),)),
        Layout((Tensor("v", (2, 3)),)),
        Layout((Tensor("w", (2, 3), kind="buffer"),)),
        Layout((Tensor("w", (6,)),)),
    ],
)
def test_the_digest_tells_layouts_apart(other: Layout) -> None:
    assert other.digest != LAYOUT.digest


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"reduction": "sum"}, "reduction"),
        ({"optimizer": Adam(0.1, beta1=0.8)}, "optimizer.beta1"),
        ({"optimizer": Adam(Cosine(0.1, 0.0, 5))}, "optimizer.lr"),
        ({"optimizer": SGD(0.1)}, "optimizer"),
        ({"consistency": Sync(3)}, "consistency.workers"),
        ({"layout": Layout((Tensor("w", (3, 2)),))}, "layout.tensors[0]"),
        ({"layout": Layout((Tensor("w", (2, 3)), Tensor("b", ())))}, "layout.tensors"),
        ({"steps_max": 7}, "steps_max"),
    ],
)
def test_the_first_difference_is_named(change: dict[str, object], path: str) -> None:
    spec = JobSpec(LAYOUT, Adam(0.1), Sync(2))
    found = first_difference(spec, dataclasses.replace(spec, **change))
    assert found is not None
    assert found[0] == path
    assert found[1] != found[2]
    assert first_difference(spec, JobSpec(LAYOUT, Adam(0.1), Sync(2))) is None


@pytest.mark.parametrize(
    ("expected", "got", "path"),
    [
        ({"clip": ClipGlobalNorm(1.0)}, {"clip": ClipGlobalNorm(2.0)}, "clip"),
        ({"clip": ClipGlobalNorm(1.0)}, {}, "clip"),
        (
            {"optimizer": Adam(Sequence([(5, 0.1), (6, 0.2)]))},
            {"optimizer": Adam(Sequence([(5, 0.1), (7, 0.2)]))},
            "optimizer.lr.parts[1]",
        ),
        (
            {"optimizer": Adam(Warmup(Cosine(0.1, 0.0, 5), 3))},
            {"optimizer": Adam(Warmup(Cosine(0.1, 0.0, 6), 3))},
            "optimizer.lr.schedule.steps",
        ),
        (
            {"optimizer": Adam(0.1, schedules={"beta1": Linear(0.1, 0.2, 5)})},
            {"optimizer": Adam(0.1, schedules={"beta1": Linear(0.1, 0.3, 5)})},
            "optimizer.schedules.beta1.lr_end",
        ),
        ({"optimizer": Adam(0.1, schedules={"beta1": 0.1})}, {"optimizer": Adam(0.1)}, "optimizer.schedules.beta1"),
        ({"groups": (Group("*", ndim_max=2, eps=0.5),)}, {}, "groups"),
    ],
)
def test_a_difference_has_a_path_of_the_contract(expected: dict[str, Any], got: dict[str, Any], path: str) -> None:
    found = first_difference(*(JobSpec(**{**SMALL, **fields}) for fields in (expected, got)))
    assert found is not None
    assert found[0] == path
    assert names_a_field(path)
    assert found[1] != found[2]


numbers = st.floats(0, 1e6, allow_nan=False)
below_one = st.floats(0, 1, exclude_max=True)
counts = st.integers(1, 10**9)
schedules = st.recursive(
    st.builds(Constant, numbers)
    | st.builds(Linear, numbers, numbers, counts)
    | st.tuples(numbers, numbers, counts).map(lambda v: Cosine(max(v[:2]), min(v[:2]), v[2])),
    lambda inner: st.builds(Warmup, inner, counts),
    max_leaves=3,
).filter(lambda schedule: schedule.depth() <= 8)
optimizers: st.SearchStrategy[Optimizer] = (
    st.builds(SGD, schedules, weight_decay=numbers)
    | st.builds(SGDM, schedules, momentum=below_one, dampening=st.floats(0, 1), weight_decay=numbers)
    | st.builds(SGDM, schedules, momentum=below_one, form=st.just("ema"))
    | st.builds(SGDM, schedules, momentum=st.floats(0.1, 0.9), nesterov=st.just(True))
    | st.builds(Adam, schedules, beta1=below_one, beta2=below_one, eps=numbers, eps_root=numbers, weight_decay=numbers)
)
names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
layouts = st.lists(
    st.tuples(names, st.lists(st.integers(0, 50), max_size=4)), min_size=1, unique_by=lambda t: t[0]
).map(lambda tensors: Layout(tuple(Tensor(name, tuple(shape)) for name, shape in tensors)))
jobs = st.builds(
    JobSpec,
    layouts,
    optimizers,
    st.integers(1, 100).map(lambda workers: Sync(workers, workers_min=(workers + 1) // 2)),
    reduction=st.sampled_from(["mean", "sum"]),
    clip=st.none() | st.builds(ClipGlobalNorm, st.floats(1e-6, 1e6)),
    steps_max=st.none() | counts,
)


def test_numbers_of_numpy_are_numbers() -> None:
    linear = Linear(np.float32(0.5), np.int64(0), np.int32(7))
    assert linear == Linear(0.5, 0.0, 7)
    assert [type(value) for value in vars(linear).values()] == [float, float, int]
    assert SGD(np.float32(0.5)) == SGD(0.5)


@given(jobs)
def test_a_job_survives_the_wire(spec: JobSpec) -> None:
    data = job_spec_to_proto(spec).SerializeToString()
    back = job_spec_from_proto(pb.JobSpec.FromString(data))
    assert back == spec
    assert back.layout.digest == spec.layout.digest
    assert first_difference(spec, back) is None


def test_eight_nested_schedules_pass_the_wire() -> None:
    spec = JobSpec(LAYOUT, SGD(deep(8)), Sync(1))
    assert job_spec_from_proto(job_spec_to_proto(spec)) == spec


def test_what_is_left_out_on_the_wire_has_the_default_of_the_specification() -> None:
    message = job_spec_to_proto(JobSpec(LAYOUT, SGD(0.1), Sync(1)))
    message.optimizer.adam.lr.constant.lr = 0.1
    assert job_spec_from_proto(message).optimizer == Adam(0.1)


def test_a_field_from_the_future_is_refused() -> None:
    message = job_spec_to_proto(JobSpec(LAYOUT, Adam(0.1), Sync(1)))
    message.optimizer.adam.MergeFromString(b"\x98\x06\x01")  # field 99
    with pytest.raises(InvalidSpec, match="unknown field number 99; known fields are lr, beta1"):
        job_spec_from_proto(message)


def test_every_specification_has_its_message_with_the_same_fields() -> None:
    for name, value in vars(specs).items():
        if isinstance(value, type) and issubclass(value, Optimizer | Schedule) and value not in (Optimizer, Schedule):
            message = pb.DESCRIPTOR.message_types_by_name[name]
            beside = {"schedules"} if issubclass(value, Optimizer) else set()  # in the message around the rule
            assert {field.name for field in dataclasses.fields(value)} - beside == set(message.fields_by_name)
