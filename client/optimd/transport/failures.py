"""From the status of a failed call to the error of the contract, or to CallLost, CallBroken or CallThrottled.

An error of the contract consumed no seq. All others leave open what the server did: INTERNAL, and what gRPC or a proxy
made, for nobody knows behind which step of the server.
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2
from optimdpb.errors import STATUS_OF_REASON, Refused

from optimd.transport.base import CallBroken, CallFailed, CallLost, CallThrottled

RETRY_DELAY_S = 1.0
_DOMAIN = "optimd"
# The reply is lost, the server is away or going away, or bytes were damaged on the way.
_LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def failure_of(code: grpc.StatusCode, message: str, status: bytes) -> Refused | CallFailed:
    """What to raise. status: a serialized google.rpc.Status, empty if none came."""
    reason, metadata, delay_s = _details(status)
    if reason == "BACKLOG_FULL":
        return CallThrottled(message, delay_s)
    if reason == "INTERNAL":
        return CallBroken(Refused.from_reason(reason, message, metadata))
    if reason and not _is_retried(reason, code):
        return Refused.from_reason(reason, message, metadata)
    text = f"{code.name}: {message}"
    return CallLost(text) if code in _LOST else CallBroken(Refused.from_reason("INTERNAL", text, metadata))


def failure_of_status(status: bytes) -> Refused | CallFailed:
    """The same, where nothing else came."""
    message = status_pb2.Status.FromString(status)
    return failure_of(_CODES.get(message.code, grpc.StatusCode.UNKNOWN), message.message, status)


def _is_retried(reason: str, code: grpc.StatusCode) -> bool:
    """A reason of a newer server goes by its status code."""
    return reason == "CHECKSUM_MISMATCH" or STATUS_OF_REASON.get(reason, code.name) == "UNAVAILABLE"


def _details(status: bytes) -> tuple[str, dict[str, str], float]:
    reason, metadata, delay_s = "", {}, RETRY_DELAY_S
    for detail in status_pb2.Status.FromString(status).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            delay_s = retry.retry_delay.ToMilliseconds() / 1000
    return reason, metadata, delay_s
