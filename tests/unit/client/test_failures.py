"""Which failures leave open what the server did, and which say that it did nothing."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from optimd.transport import CallBroken, CallLost, CallThrottled
from optimd.transport.failures import failure_of
from optimdpb.errors import STATUS_OF_REASON, InvalidSpec, Refused

RETRIED = {"CHECKSUM_MISMATCH", *(reason for reason, code in STATUS_OF_REASON.items() if code == "UNAVAILABLE")}


def status_of(reason: str) -> bytes:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="optimd", metadata={"field": "lr"}))
    return status_pb2.Status(details=[packed]).SerializeToString()


@pytest.mark.parametrize("reason", STATUS_OF_REASON)
def test_every_reason_of_the_contract(reason: str) -> None:
    failure = failure_of(grpc.StatusCode[STATUS_OF_REASON[reason]], "why", status_of(reason))
    if reason == "BACKLOG_FULL":
        assert isinstance(failure, CallThrottled)
    elif reason == "INTERNAL":
        assert isinstance(failure, CallBroken)
        assert (failure.refusal.reason, str(failure.refusal)) == ("INTERNAL", "why")
    elif reason in RETRIED:
        assert isinstance(failure, CallLost)
    else:
        assert isinstance(failure, Refused)
        assert (failure.reason, failure.metadata) == (reason, {"field": "lr"})
        assert isinstance(failure, InvalidSpec) == (reason == "INVALID_SPEC")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code != grpc.StatusCode.OK], ids=str)
def test_a_status_without_a_reason_is_of_grpc_or_of_a_proxy(code: grpc.StatusCode) -> None:
    """What the server did before is open, also where the status itself looks final."""
    failure = failure_of(code, "Stream removed", b"")
    assert isinstance(failure, CallLost | CallBroken)
    assert "Stream removed" in str(failure)
    if isinstance(failure, CallBroken):
        assert failure.refusal.reason == "INTERNAL"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, Refused),
        (grpc.StatusCode.INVALID_ARGUMENT, Refused),
        (grpc.StatusCode.UNAVAILABLE, CallLost),
    ],
)
def test_a_reason_of_a_newer_server_goes_by_its_status(code: grpc.StatusCode, kind: type) -> None:
    assert type(failure_of(code, "why", status_of("MOON_IS_FULL"))) is kind
