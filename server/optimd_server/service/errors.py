"""Refusals to gRPC statuses: one ErrorInfo each, reason and metadata for programs, message for people."""

from __future__ import annotations

import logging
import random
import secrets
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from optimdpb.errors import STATUS_OF_REASON, Refused

log = logging.getLogger(__name__)

DOMAIN = "optimd"
# Those who were refused together must not come back together.
RETRY_DELAY_MS = (500, 1500)
# Together, escaped and in base64, they stay below the 8 KiB of trailers that every client accepts.
MESSAGE_BYTES_MAX = 1024
METADATA_VALUE_BYTES_MAX = 256


def status_of(error: Refused) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The gRPC code and the google.rpc.Status of a refusal."""
    code = grpc.StatusCode[STATUS_OF_REASON[error.reason]]
    status = status_pb2.Status(code=code.value[0], message=shortened(str(error), MESSAGE_BYTES_MAX))
    metadata = {key: shortened(value, METADATA_VALUE_BYTES_MAX) for key, value in error.metadata.items()}
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(random.randint(*RETRY_DELAY_MS))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, status


def shortened(text: str, bytes_max: int) -> str:
    """The text if its UTF-8 has at most bytes_max bytes, else its start and an ellipsis in as many."""
    data = text.encode(errors="replace")
    if len(data) <= bytes_max:
        return data.decode()
    return data[: bytes_max - len("…".encode())].decode(errors="ignore") + "…"


def unexpected(error: Exception, method: str) -> Refused:
    """A defect: logged in full under an id; the caller learns only the id."""
    incident = secrets.token_hex(4)
    log.error("incident %s in %s", incident, method, exc_info=error)
    return Refused(
        "INTERNAL", f"the server failed; its log has the details under incident {incident}", incident=incident
    )


async def abort(context: grpc.aio.ServicerContext, error: Refused) -> NoReturn:  # type: ignore[type-arg]
    """End the call with the refusal."""
    code, status = status_of(error)
    await context.abort(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))
