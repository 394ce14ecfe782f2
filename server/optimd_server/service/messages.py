"""Messages to domain values and back, with the checks that need no job."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from optimdpb.encodings import payload_bytes
from optimdpb.errors import Refused
from optimdpb.frames import Framed
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.control import NAME_CHARACTERS_MAX
from optimd_server.core.effects import Outcome, Pending, Reason, RoundRecord, Status
from optimd_server.core.events import Push, Version
from optimd_server.runtime import JobHost, Runtime

_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_MILLISECONDS = 1000
_DTYPES: dict[int, np.dtype[Any]] = {
    pb.ENCODING_UNSPECIFIED: np.dtype(np.float32),
    pb.ENCODING_F32: np.dtype(np.float32),
    pb.ENCODING_BF16: np.dtype(np.uint16),
    pb.ENCODING_INT8_BLOCK: np.dtype(np.uint8),
}
_STATUSES: Any = {status: pb.OutcomeStatus.Value(f"OUTCOME_STATUS_{status.name}") for status in Status}
_REASONS: Any = {
    reason: pb.OutcomeReason.Value(f"OUTCOME_REASON_{'UNSPECIFIED' if reason is Reason.NONE else reason.name}")
    for reason in Reason
}


def checked_name(field: str, name: str) -> str:
    """The name of a job or worker. Raises Refused(INVALID_NAME)."""
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 128 else name[:128] + "…"
        message = f"{field}: expected 1 to 128 characters of A-Z a-z 0-9 . _ : / -, got {shown!r}"
        raise Refused("INVALID_NAME", message, field=field, name=shown)
    return name


def check_limit(name: str, limit: int, value: int) -> None:
    """Raises Refused(LIMIT_EXCEEDED)."""
    if value > limit:
        message = f"expected at most {name} = {limit}, got {value}"
        raise Refused("LIMIT_EXCEEDED", message, limit=name, limit_value=limit, value=value)


def check_requester(name: str) -> None:
    """Raises Refused(INVALID_UPDATE)."""
    if len(name) > NAME_CHARACTERS_MAX:
        message = f"requester: expected at most {NAME_CHARACTERS_MAX} characters, got {len(name)}"
        raise Refused("INVALID_UPDATE", message, field="requester")


def required(message: Any, field: str) -> Any:
    """A sub-message that must be there. Raises Refused(MALFORMED_REQUEST)."""
    if not message.HasField(field):
        raise Refused("MALFORMED_REQUEST", f"expected field {field}, got none", field=field)
    return getattr(message, field)


async def next_chunk(requests: AsyncIterator[Framed]) -> Framed | None:
    """The next message of a stream whose header has come, None at its end. Raises Refused(MALFORMED_REQUEST)."""
    request = await anext(requests, None)
    if request is not None and request.message.HasField("header"):
        raise Refused("MALFORMED_REQUEST", "expected a header in the first message alone, got another", field="header")
    return request


def checksum_of(message: Any) -> int | None:
    """The crc32c of a chunk, None if it carries none."""
    return message.crc32c if message.HasField("crc32c") else None


def header(runtime: Runtime, host: JobHost) -> pb.Header:
    """Where the job is now."""
    version = host.machine.version
    return pb.Header(lineage=version.lineage, step=version.step, incarnation=runtime.incarnation)


def limits(runtime: Runtime) -> pb.Limits:
    """The limits in force."""
    config = runtime.config
    return pb.Limits(
        chunk_bytes_max=config.chunk_bytes_max,
        step_bytes_max=config.step_bytes_max,
        wait_ms_max=int(config.wait_s_max * _MILLISECONDS),
        parameters_bytes_max=config.parameters_bytes_max,
        tensors_max=config.tensors_max,
        workers_max=config.workers_max,
        jobs_max=config.jobs_max,
        staging_bytes_max=config.staging_bytes_max,
        calls_max=config.calls_max,
        push_ms_max=int(config.push_timeout_s * _MILLISECONDS),
        state_bytes_max=config.state_bytes_max,
        spec_bytes_max=config.spec_bytes_max,
        groups_max=config.groups_max,
    )


def lease_ms(runtime: Runtime) -> int:
    """The lease in force, in milliseconds."""
    return int(runtime.config.lease_s * _MILLISECONDS)


def push_from_proto(host: JobHost, message: pb.PushHeader) -> Push:
    """A push's header.

    Raises Refused(LAYOUT_MISMATCH, UNSUPPORTED_ENCODING, PAYLOAD_SIZE_MISMATCH, MALFORMED_REQUEST).
    """
    check_layout(host, message.layout_digest)
    if message.encoding not in _DTYPES:
        raise Refused("UNSUPPORTED_ENCODING", f"expected a known encoding, got {message.encoding}", field="encoding")
    if message.shared_buffer and message.encoding not in (pb.ENCODING_UNSPECIFIED, pb.ENCODING_F32):
        text = f"expected encoding F32 in a shared buffer, got {message.encoding}"
        raise Refused("UNSUPPORTED_ENCODING", text, field="encoding")
    expected_bytes = payload_bytes(message.encoding, host.spec.layout.elements)
    if message.payload_bytes != expected_bytes:
        text = f"expected payload_bytes {expected_bytes} for this layout, got {message.payload_bytes}"
        raise Refused("PAYLOAD_SIZE_MISMATCH", text, expected=expected_bytes, got=message.payload_bytes)
    base = required(message, "base_version")
    if not base.lineage:
        text = "base_version.lineage: expected that of the parameters the gradient was taken at, got none"
        raise Refused("MALFORMED_REQUEST", text, field="base_version.lineage")
    return Push(
        worker=message.worker,
        epoch=message.epoch,
        seq=message.seq,
        base=Version(base.lineage, base.step),
        weight=message.weight,
        loss=message.loss if message.HasField("loss") else None,
    )


def check_layout(host: JobHost, digest: bytes) -> None:
    """Raises Refused(LAYOUT_MISMATCH)."""
    expected = host.spec.layout.digest
    if digest != expected:
        text = f"expected layout digest {expected.hex()}, got {digest.hex() or 'none'}"
        raise Refused("LAYOUT_MISMATCH", text, expected=expected.hex(), got=digest.hex())


def gradient_dtype(encoding: int) -> np.dtype[Any]:
    """How the payload of a known encoding is held; bfloat16 as uint16, blocks of int8 as uint8."""
    return _DTYPES[encoding]


def check_pull_encoding(encoding: int) -> None:
    """Raises Refused(UNSUPPORTED_ENCODING)."""
    if encoding not in (pb.ENCODING_UNSPECIFIED, pb.ENCODING_F32, pb.ENCODING_BF16):
        raise Refused("UNSUPPORTED_ENCODING", f"expected encoding F32 or BF16, got number {encoding}", field="encoding")


def _put(message: pb.Outcome, outcome: Outcome) -> None:
    message.status, message.reason = _STATUSES[outcome.status], _REASONS[outcome.reason]
    message.detail, message.seq, message.applied_step = outcome.detail, outcome.seq, outcome.applied_step
    message.learning_rate, message.staleness = outcome.learning_rate, outcome.staleness
    message.rank, message.world_size = outcome.rank, outcome.world_size


def put_outcome(
    response: pb.PushResponse | pb.StepResponse | pb.AwaitOutcomeResponse, outcome: Outcome | Pending | None
) -> None:
    """What became of a push, as far as it is known."""
    if isinstance(outcome, Outcome):
        response.state = pb.PUSH_STATE_DONE
        _put(response.outcome, outcome)
    else:
        response.state = pb.PUSH_STATE_WAITING if isinstance(outcome, Pending) else pb.PUSH_STATE_UNKNOWN


def round_to_proto(record: RoundRecord) -> pb.RoundStatus:
    """An applied round as its message."""
    return pb.RoundStatus(
        step=record.step,
        learning_rate=record.learning_rate,
        loss=record.loss,
        contributions=len(record.contributions),
        hyper_parameters=dict(record.hyper_parameters),
    )


def state_to_proto(host: JobHost) -> str:
    """The job's state as a name of the contract's enum."""
    return f"JOB_STATE_{host.state_name}"
