"""The contract as text and the tables in code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from optimd_server.core.effects import Reason
from optimd_server.service.errors import status_of
from optimdpb.errors import STATUS_OF_REASON, Refused
from optimdpb.v1 import optimd_pb2 as pb

PROTO = (Path(__file__).parents[2] / "proto" / "optimd" / "v1" / "optimd.proto").read_text()
STATUS_NAMES = {code.name for code in grpc.StatusCode}


def test_every_reason_has_the_status_that_its_comment_says() -> None:
    said = re.findall(r"  // ([A-Z_]+)[. ][^\n]*\n(?:  //[^\n]*\n)*  ERROR_REASON_([A-Z_]+) = \d+;", PROTO)
    assert {reason: status for status, reason in said if status in STATUS_NAMES} == STATUS_OF_REASON


def test_the_table_of_reasons_is_total() -> None:
    known = {value.name.removeprefix("ERROR_REASON_") for value in pb.ErrorReason.DESCRIPTOR.values if value.number}
    assert known == set(STATUS_OF_REASON)


@pytest.mark.parametrize("reason", sorted(STATUS_OF_REASON))
def test_every_reason_travels(reason: str) -> None:
    error = Refused.from_reason(reason, "text", {"key": "value"})
    assert error.reason == reason
    code, status = status_of(error)
    assert code.name == STATUS_OF_REASON[reason]
    assert status.code == code.value[0]
    assert len(status.details) == (2 if code is grpc.StatusCode.RESOURCE_EXHAUSTED else 1)


def test_a_reason_outside_the_contract_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="NO_SUCH"):
        Refused("NO_SUCH", "text")


def test_outcome_reasons_of_the_core_are_in_the_contract() -> None:
    served = {reason.name for reason in Reason} - {"NONE"}
    known = {value.name.removeprefix("OUTCOME_REASON_") for value in pb.OutcomeReason.DESCRIPTOR.values}
    assert served <= known


def test_every_public_rpc_names_its_errors() -> None:
    for service in ("JobService", "WorkerService"):
        body = re.search(rf"service {service} \{{(.*?)\n\}}", PROTO, re.S)
        assert body is not None
        rpcs = re.findall(r"((?:  //[^\n]*\n)+)  rpc (\w+)", body[1])
        assert {name for _, name in rpcs} == {rpc.name for rpc in pb.DESCRIPTOR.services_by_name[service].methods}
        for comment, name in rpcs:
            if name == "GetServerInfo":
                continue
            named = {word for word in re.findall(r"\b[A-Z]+_[A-Z_]+\b", comment) if word in STATUS_OF_REASON}
            assert named, f"{name} names no error"


def test_data_is_the_highest_field_wherever_it_is() -> None:
    """Codecs join the payload behind the other fields; that is only plain protobuf in order if it comes last."""
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        if "data" in message.fields_by_name:
            assert message.fields_by_name["data"].number == 15 == max(field.number for field in message.fields)
