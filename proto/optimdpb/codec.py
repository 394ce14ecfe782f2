"""Specifications to messages and back.

A specification class and its message share their name and their field names, so one walk over the message's descriptor
serves every rule, schedule and consistency model. Only the job's own shape is spelled out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
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
from optimdpb.specs.checks import shown
from optimdpb.specs.schedules import ENTRIES_MAX, NESTING_MAX
from optimdpb.specs.text import schedule_from_text
from optimdpb.v1 import optimd_pb2 as pb

T = TypeVar("T")

# Schedules of one rule or one change; no rule has so many hyper-parameters.
SCHEDULES_MAX = 32

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
    for name, schedule in optimizer.scheduled().items():
        message.schedules[name].CopyFrom(schedule_to_proto(schedule))
    return message


def optimizer_from_proto(message: pb.Optimizer) -> Optimizer:
    """A rule from its message. Raises InvalidSpec, NotServed."""
    optimizer: Optimizer = _unwrap("optimizer", message, "rule")
    schedules = schedules_from_proto("optimizer.schedules", message.schedules)
    return _within("optimizer", lambda: dataclasses.replace(optimizer, schedules=schedules))


def schedules_from_proto(path: str, messages: Mapping[str, pb.Schedule]) -> dict[str, Schedule]:
    """Schedules by hyper-parameter from their messages. Raises InvalidSpec, NotServed."""
    if len(messages) > SCHEDULES_MAX:
        raise InvalidSpec(path, f"expected at most {SCHEDULES_MAX} schedules, got {len(messages)}")
    return {name: _unwrap(f"{path}.{name}", messages[name], "kind") for name in sorted(messages)}


def schedule_from_proto(message: pb.Schedule) -> Schedule:
    """A schedule from its message. Raises InvalidSpec, NotServed."""
    schedule: Schedule = _unwrap("schedule", message, "kind")
    return schedule


def schedule_to_json(schedule: Schedule) -> dict[str, Any]:
    """A schedule as the JSON form of its message, with the contract's field names: {"sgdr": {"lr_max": 0.001, ...}}."""
    return json_format.MessageToDict(schedule_to_proto(schedule), preserving_proto_field_name=True)


def schedule_from_json(plain: Any) -> Schedule:
    """A schedule from its JSON form. Raises InvalidSpec, NotServed."""
    try:
        return schedule_from_proto(json_format.ParseDict(plain, pb.Schedule()))
    except (InvalidSpec, NotServed):
        raise
    except (json_format.ParseError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidSpec("schedule", f"expected a schedule as JSON, got {shown(plain)[:100]}: {error}") from None


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


def spec_digest(message: pb.JobSpec) -> bytes:
    """SHA-256 of a specification's JSON with sorted names: the same for every process and version that reads it so."""
    plain = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).digest()


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
            pattern=group.pattern,
            ndim_min=group.ndim_min,
            ndim_max=group.ndim_max,
            frozen=group.frozen,
            hyper_parameters=dict(group.hyper_parameters),
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
    return JobSpec(
        layout=layout_from_proto(message.layout),
        optimizer=optimizer_from_proto(message.optimizer),
        consistency=_unwrap("consistency", message.consistency, "model"),
        reduction=_choice_from_proto("reduction", message, pb.JobSpec.DESCRIPTOR.fields_by_name["reduction"]) or "mean",
        clip=_clip_from_proto(message) if message.HasField("clip") else None,
        steps_max=message.steps_max if message.HasField("steps_max") else None,
        groups=tuple(_group_from_proto(place, group) for place, group in enumerate(message.groups)),
        rejections_max=message.rejections_max if message.HasField("rejections_max") else None,
    )


def schedule_from_spelling(spelling: str) -> Schedule:
    """A schedule as people write it: text, or JSON if it begins with a brace. Raises InvalidSpec, NotServed."""
    if not spelling.lstrip().startswith("{"):
        return schedule_from_text(spelling)
    try:
        return schedule_from_json(json.loads(spelling))
    except InvalidSpec:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, nested too deep, an integer of more than 4,300 digits
        raise InvalidSpec("schedule", f"expected a schedule as JSON, got {spelling[:100]!r}: {error}") from None


def layout_from_proto(message: pb.Layout) -> Layout:
    """A layout from its message. Raises InvalidLayout, InvalidSpec."""
    _refuse_unknown_fields("layout", message)
    kinds = {
        pb.TENSOR_KIND_UNSPECIFIED: "trainable",
        pb.TENSOR_KIND_TRAINABLE: "trainable",
        pb.TENSOR_KIND_BUFFER: "buffer",
    }
    tensors = []
    for place, tensor in enumerate(message.tensors):
        if tensor.kind not in kinds:
            raise InvalidSpec(f"layout.tensors[{place}].kind", f"expected a value of TensorKind, got {tensor.kind}")
        tensors.append(Tensor(tensor.name, tuple(tensor.shape), kinds[tensor.kind]))
    return Layout(tuple(tensors))


def _clip_from_proto(message: pb.JobSpec) -> Clip:
    kind = message.clip.WhichOneof("kind")
    if kind is None:
        raise InvalidSpec("clip", "expected one kind of clipping, got none")
    make: Callable[[float], Clip] = _CLIP_OF_KIND[kind]
    try:
        return make(getattr(message.clip, kind))
    except InvalidSpec as error:  # the field is a member of a oneof, whose names are no part of paths
        raise InvalidSpec("clip", error.problem) from None


def _kind_of_clip(clip: Clip) -> tuple[str, float]:
    kind = next(kind for kind, clip_class in _CLIP_OF_KIND.items() if type(clip) is clip_class)
    (field,) = dataclasses.fields(clip)
    return kind, getattr(clip, field.name)


def _group_from_proto(place: int, message: pb.Group) -> Group:
    path = f"groups[{place}]"
    _refuse_unknown_fields(path, message)
    settings = set(message.hyper_parameters) & {"self", *message.DESCRIPTOR.fields_by_name}
    if settings:
        raise InvalidSpec(f"{path}.{min(settings)}", "expected in its own field, got as a hyper-parameter")
    names = ("ndim_min", "ndim_max", "lr_multiplier")
    given = {name: getattr(message, name) for name in names if message.HasField(name)}
    parameters = {**given, **message.hyper_parameters}
    return _within(path, lambda: Group(message.pattern, frozen=message.frozen, **parameters))


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
        if field.name in message.DESCRIPTOR.fields_by_name:  # an Optimizer's schedules are beside the rule
            _put(message, message.DESCRIPTOR.fields_by_name[field.name], getattr(spec, field.name))


def _put(message: Any, descriptor: Any, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, Schedule):
        getattr(message, descriptor.name).CopyFrom(schedule_to_proto(value))
    elif isinstance(value, tuple) and descriptor.message_type is None:
        getattr(message, descriptor.name).extend(value)
    elif isinstance(value, tuple):
        for entry in value:
            added = getattr(message, descriptor.name).add()
            for part, part_value in zip(descriptor.message_type.fields, entry, strict=True):
                _put(added, part, part_value)
    elif descriptor.enum_type is not None:
        setattr(message, descriptor.name, _enum_prefix(descriptor) + value.upper())
    else:
        setattr(message, descriptor.name, value)


@dataclasses.dataclass
class _Walk:
    """What a walk has met: the entries of lists so far, counted before they are read."""

    entries: int = 0

    def meets(self, path: str, entries: int) -> None:
        self.entries += entries
        if self.entries > ENTRIES_MAX:
            raise InvalidSpec(path, f"expected at most {ENTRIES_MAX} entries in all, got {self.entries}")


def _unwrap(path: str, wrapper: Any, oneof: str, depth: int = 0, walk: _Walk | None = None) -> Any:
    """Build the specification held in a wrapper's oneof, which lies in `depth` schedules."""
    walk = walk or _Walk()
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
        value = _take(f"{path}.{descriptor.name}", message, descriptor, depth, walk)
        if value is not None:
            values[descriptor.name] = value
    return _within(path, lambda: spec_class(**values))


def _take(path: str, message: Any, descriptor: Any, depth: int, walk: _Walk) -> Any:
    """The value of a field; None to leave its default."""
    if isinstance(descriptor.default_value, list):  # repeated
        given = getattr(message, descriptor.name)
        walk.meets(path, len(given))
        if descriptor.message_type is None:
            return tuple(given)
        return tuple(_entry(f"{path}[{place}]", entry, depth, walk) for place, entry in enumerate(given))
    if descriptor.message_type is not None:
        if not message.HasField(descriptor.name):
            raise InvalidSpec(path, "expected a schedule, got none")
        return _unwrap(path, getattr(message, descriptor.name), "kind", depth + 1, walk)
    if descriptor.enum_type is not None:
        return _choice_from_proto(path, message, descriptor)
    if descriptor.has_presence and not message.HasField(descriptor.name):
        return None
    return getattr(message, descriptor.name)


def _entry(path: str, message: Any, depth: int, walk: _Walk) -> tuple[Any, ...]:
    """An entry of a repeated field: its fields in order."""
    _refuse_unknown_fields(path, message)
    return tuple(_take(f"{path}.{part.name}", message, part, depth, walk) for part in message.DESCRIPTOR.fields)


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
