"""Specifications to messages and back.

A specification class and its message share their name and their field names, so one walk over the message's descriptor
serves every rule, schedule and consistency model. Only the job's own shape is spelled out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from optimdpb import specs
from optimdpb.errors import InvalidSpec, NotServed
from optimdpb.specs import (
    Clip,
    ClipGlobalNorm,
    ClipTensorNorm,
    ClipValue,
    Consistency,
    Group,
    JobSpec,
    Layout,
    Optimizer,
    Schedule,
    Tensor,
)
from optimdpb.specs.schedules import NESTING_MAX
from optimdpb.v1 import optimd_pb2 as pb

T = TypeVar("T")

_CLIP_OF_KIND: dict[str, Callable[[float], Clip]] = {
    "global_norm": ClipGlobalNorm,
    "tensor_norm": ClipTensorNorm,
    "value": ClipValue,
}

_CLASS_OF_MESSAGE: dict[str, type] = {
    name: value
    for name, value in vars(specs).items()
    if isinstance(value, type) and issubclass(value, Optimizer | Schedule | Consistency)
}


def schedule_to_proto(schedule: Schedule) -> pb.Schedule:
    """A schedule as its message."""
    message = pb.Schedule()
    _wrap(message, schedule)
    return message


def optimizer_to_proto(optimizer: Optimizer) -> pb.Optimizer:
    """A rule as its message."""
    message = pb.Optimizer()
    _wrap(message, optimizer)
    return message


def consistency_to_proto(consistency: Consistency) -> pb.Consistency:
    """A consistency model as its message."""
    message = pb.Consistency()
    _wrap(message, consistency)
    return message


def layout_to_proto(layout: Layout) -> pb.Layout:
    """A layout as its message."""
    message = pb.Layout()
    for tensor in layout.tensors:
        kind = pb.TENSOR_KIND_BUFFER if tensor.kind == "buffer" else pb.TENSOR_KIND_TRAINABLE
        message.tensors.add(name=tensor.name, shape=tensor.shape, kind=kind)
    return message


def job_spec_to_proto(spec: JobSpec) -> pb.JobSpec:
    """A job specification as its message."""
    message = pb.JobSpec(
        layout=layout_to_proto(spec.layout),
        optimizer=optimizer_to_proto(spec.optimizer),
        consistency=consistency_to_proto(spec.consistency),
        reduction=pb.REDUCTION_SUM if spec.reduction == "sum" else pb.REDUCTION_MEAN,
        steps_max=spec.steps_max,
        rejections_max=spec.rejections_max,
    )
    if spec.clip is not None:
        kind, value = _kind_of_clip(spec.clip)
        setattr(message.clip, kind, value)
    for group in spec.groups:
        added = message.groups.add(
            pattern=group.pattern, frozen=group.frozen, hyper_parameters=dict(group.hyper_parameters)
        )
        if group.lr_multiplier != 1.0:
            added.lr_multiplier = group.lr_multiplier
    return message


def job_spec_from_proto(message: pb.JobSpec) -> JobSpec:
    """A job specification from its message.

    Raises InvalidLayout, InvalidSpec (the field's path in its text) and NotServed.
    """
    _refuse_unknown_fields("spec", message)
    for required in ("layout", "optimizer", "consistency"):
        if not message.HasField(required):
            raise InvalidSpec(required, "expected a value, got none")
    if message.optimizer.schedules:
        raise NotServed("option schedules of an optimizer")
    return JobSpec(
        layout=layout_from_proto(message.layout),
        optimizer=_unwrap("optimizer", message.optimizer, "rule"),
        consistency=_unwrap("consistency", message.consistency, "model"),
        reduction=_choice_from_proto("reduction", message, pb.JobSpec.DESCRIPTOR.fields_by_name["reduction"]) or "mean",
        clip=_clip_from_proto(message) if message.HasField("clip") else None,
        steps_max=message.steps_max if message.HasField("steps_max") else None,
        groups=tuple(_group_from_proto(place, group) for place, group in enumerate(message.groups)),
        rejections_max=message.rejections_max if message.HasField("rejections_max") else None,
    )


def layout_from_proto(message: pb.Layout) -> Layout:
    """A layout from its message. Raises InvalidLayout, InvalidSpec."""
    _refuse_unknown_fields("layout", message)
    kinds = {
        pb.TENSOR_KIND_UNSPECIFIED: "trainable",
        pb.TENSOR_KIND_TRAINABLE: "trainable",
        pb.TENSOR_KIND_BUFFER: "buffer",
    }
    tensors = []
    for tensor in message.tensors:
        if tensor.kind not in kinds:
            raise InvalidSpec("layout.tensors.kind", f"expected a value of TensorKind, got {tensor.kind}")
        tensors.append(Tensor(tensor.name, tuple(tensor.shape), kinds[tensor.kind]))
    return Layout(tuple(tensors))


def _clip_from_proto(message: pb.JobSpec) -> Clip:
    kind = message.clip.WhichOneof("kind")
    if kind is None:
        raise InvalidSpec("clip", "expected one kind of clipping, got none")
    make: Callable[[float], Clip] = _CLIP_OF_KIND[kind]
    return _within("clip", lambda: make(getattr(message.clip, kind)))


def _kind_of_clip(clip: Clip) -> tuple[str, float]:
    kind = next(kind for kind, clip_class in _CLIP_OF_KIND.items() if type(clip) is clip_class)
    (field,) = dataclasses.fields(clip)
    return kind, getattr(clip, field.name)


def _group_from_proto(place: int, message: pb.Group) -> Group:
    path = f"groups[{place}]"
    _refuse_unknown_fields(path, message)
    settings = set(message.hyper_parameters) & {"self", "pattern", "lr_multiplier", "frozen"}
    if settings:
        raise InvalidSpec(f"{path}.{min(settings)}", "expected in its own field, got as a hyper-parameter")
    multiplier = message.lr_multiplier if message.HasField("lr_multiplier") else 1.0
    parameters = dict(message.hyper_parameters)
    return _within(path, lambda: Group(message.pattern, lr_multiplier=multiplier, frozen=message.frozen, **parameters))


def _wrap(wrapper: Any, spec: Any) -> None:
    """Fill the wrapper's oneof member whose message is named after the specification's class."""
    (oneof,) = (o for o in wrapper.DESCRIPTOR.oneofs if not o.name.startswith("_"))
    for member in oneof.fields:
        if member.message_type.name == type(spec).__name__:
            getattr(wrapper, member.name).SetInParent()
            _fill(getattr(wrapper, member.name), spec)
            return
    raise AssertionError(f"{type(spec).__name__} has no member in {wrapper.DESCRIPTOR.name}")


def _fill(message: Any, spec: Any) -> None:
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        descriptor = message.DESCRIPTOR.fields_by_name[field.name]
        if value is None:
            continue
        if isinstance(value, Schedule):
            getattr(message, field.name).CopyFrom(schedule_to_proto(value))
        elif descriptor.enum_type is not None:
            setattr(message, field.name, _enum_prefix(descriptor) + value.upper())
        else:
            setattr(message, field.name, value)


def _unwrap(path: str, wrapper: Any, oneof: str, depth: int = 0) -> Any:
    """Build the specification held in a wrapper's oneof, which lies in `depth` schedules."""
    _refuse_unknown_fields(path, wrapper)
    member = wrapper.WhichOneof(oneof)
    if member is None:
        raise InvalidSpec(path, f"expected one {oneof}, got none")
    if depth > NESTING_MAX:
        raise InvalidSpec(path, f"expected at most {NESTING_MAX} nested schedules, got more")
    message = getattr(wrapper, member)
    _refuse_unknown_fields(path, message)
    spec_class = _CLASS_OF_MESSAGE.get(message.DESCRIPTOR.name)
    if spec_class is None:
        raise NotServed(f"{path} {message.DESCRIPTOR.name}")
    values: dict[str, object] = {}
    for descriptor in message.DESCRIPTOR.fields:
        if descriptor.message_type is not None:
            if not message.HasField(descriptor.name):
                raise InvalidSpec(f"{path}.{descriptor.name}", "expected a schedule, got none")
            values[descriptor.name] = _unwrap(
                f"{path}.{descriptor.name}", getattr(message, descriptor.name), "kind", depth + 1
            )
        elif descriptor.enum_type is not None:
            choice = _choice_from_proto(f"{path}.{descriptor.name}", message, descriptor)
            if choice is not None:
                values[descriptor.name] = choice
        elif not descriptor.has_presence or message.HasField(descriptor.name):
            values[descriptor.name] = getattr(message, descriptor.name)
    return _within(path, lambda: spec_class(**values))


def _choice_from_proto(path: str, message: Any, descriptor: Any) -> str | None:
    """The word of an enum value without its prefix; None for UNSPECIFIED."""
    number = getattr(message, descriptor.name)
    if number == 0:
        return None
    value = descriptor.enum_type.values_by_number.get(number)
    if value is None:
        raise InvalidSpec(path, f"expected a value of {descriptor.enum_type.name}, got {number}")
    word: str = value.name
    return word.removeprefix(_enum_prefix(descriptor)).lower()


def _enum_prefix(descriptor: Any) -> str:
    first: str = descriptor.enum_type.values_by_number[0].name
    return first.removesuffix("UNSPECIFIED")


def _refuse_unknown_fields(path: str, message: Message) -> None:
    """A hyper-parameter this program does not know must not be dropped in silence."""
    unknown_fields: Any = UnknownFieldSet(message)  # the stubs miss its iterator
    for unknown in unknown_fields:
        known = ", ".join(field.name for field in message.DESCRIPTOR.fields)
        raise InvalidSpec(path, f"unknown field number {unknown.field_number}; known fields are {known}")


def _within(path: str, build: Callable[[], T]) -> T:
    """Put the path in front of the field of an InvalidSpec."""
    try:
        return build()
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}.{error.field}", error.problem) from None
