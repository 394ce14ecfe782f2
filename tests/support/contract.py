"""What the comments of the contract promise, for tests that compare it with what the server does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimdpb.v1 import optimd_pb2 as pb

CONTRACT = Path(__file__).parents[2] / "proto" / "optimd" / "v1" / "optimd.proto"
Keys = frozenset[str]
# Beside requests: paths in these leave out where the request has them.
_PATHS_FROM = ("JobSpec", "PushHeader", "UploadHeader")


def metadata_of_reasons() -> dict[str, list[Keys]]:
    """By reason: the sets of keys that its ErrorInfo may have."""
    found = re.findall(r"((?:  //[^\n]*\n)+)  ERROR_REASON_([A-Z_]+) = [1-9]\d*;", CONTRACT.read_text())
    return {reason: _alternatives(" ".join(line.strip(" /") for line in text.splitlines())) for text, reason in found}


def _alternatives(comment: str) -> list[Keys]:
    _, said, keys = comment.partition("metadata: ")
    if not said:
        return [frozenset()]
    keys = re.sub(r"\([^)]*\)", "", keys).partition(".")[0]
    return [frozenset(re.findall(r"[a-z_]+", part)) - {"or", "none"} for part in keys.split(";")]


def names_a_field(path: str) -> bool:
    """Whether ErrorInfo may call a field so: its path in some message, as the head of the contract describes it."""
    parts = [part.group() for part in re.finditer(r"[^.\[]+|\[\d+\]", path)]
    messages = pb.DESCRIPTOR.message_types_by_name
    roots = [message for name, message in messages.items() if name.endswith("Request")]
    return any(_leads(root, parts) for root in [*roots, *(messages[name] for name in _PATHS_FROM)])


def _leads(message: Any, parts: list[str]) -> bool:
    name, *rest = parts
    if message.name == "Group" and not rest:
        return True  # a hyper-parameter, known or not
    return any(_leads_on(field, rest) for field in _fields(message) if field.name == name)


def _leads_on(field: Any, rest: list[str]) -> bool:
    """From a field onwards."""
    if not rest:
        return True
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        value = kind.fields_by_name["value"]
        return not rest[0].startswith("[") and (len(rest) == 1 or _leads(value.message_type, rest[1:]))
    is_entry = rest[0].startswith("[")
    if is_entry != field.is_repeated:
        return False
    rest = rest[is_entry:]
    return not rest or (kind is not None and _leads(kind, rest))


def _fields(message: Any) -> Iterator[Any]:
    """Those of a message, and in place of a member of a oneof those of the member."""
    for field in message.fields:
        oneof = field.containing_oneof
        if oneof is None or oneof.name.startswith("_"):
            yield field
        elif field.message_type is not None:
            yield from _fields(field.message_type)
