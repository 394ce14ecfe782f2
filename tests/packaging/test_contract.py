"""The contract as text and the tables in code say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from optimd_server.core.effects import Reason
from optimd_server.runtime.host import OF_THE_JOB
from optimd_server.service.errors import status_of
from optimdpb.checksum import crc32c
from optimdpb.errors import STATUS_OF_REASON, InvalidGradient, Refused
from optimdpb.specs import Layout, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.contract import CONTRACT, Keys, metadata_of_reasons
from tests.support.errors import LOCAL

PROTO = CONTRACT.read_text()
SERVER = Path(__file__).parents[2] / "server" / "optimd_server"
METADATA = metadata_of_reasons()
# What the comments say of these is seen where a server sends them: their calls have no fixed keys.
RAISED_BY_CLASS = [
    error for error in LOCAL.values() if isinstance(error, Refused) and type(error) not in (Refused, InvalidGradient)
]
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


def refusals() -> Iterator[tuple[str, str, Keys]]:
    """Where the server's code refuses, with which reason and which keys of metadata."""
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused"):
                continue
            reason = node.args[0]
            if not isinstance(reason, ast.Constant):  # one that was refused before, told again
                continue
            keys = [keyword.arg for keyword in node.keywords]
            assert None not in keys, f"{path}:{node.lineno}: expected keys as they stand"
            yield f"{path.relative_to(SERVER)}:{node.lineno}", str(reason.value), frozenset(map(str, keys))


# Of reasons that are for later.
NOT_SENT_YET = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
# These end a job, whose failure is told under JOB_FAILED.
NEVER_SENT = {"state/shard.py", "state/past.py"}


@pytest.mark.parametrize(("where", "reason", "keys"), list(refusals()))
def test_a_refusal_has_the_metadata_that_the_contract_names(where: str, reason: str, keys: Keys) -> None:
    if where.partition(":")[0] in NEVER_SENT:
        assert reason == "INTERNAL"
        return
    added = {"job"} if reason in OF_THE_JOB and where.startswith("core/") else set()
    assert keys | added in METADATA[reason]


@pytest.mark.parametrize("error", RAISED_BY_CLASS, ids=lambda error: error.reason)
def test_an_error_of_a_class_of_its_own_has_the_metadata_that_the_contract_names(error: Refused) -> None:
    assert frozenset(error.metadata) in METADATA[error.reason]


def test_metadata_that_the_contract_names_is_sent() -> None:
    """Every alternative, by some line of the server."""
    sent = {(error.reason, frozenset(error.metadata)) for error in RAISED_BY_CLASS}
    for where, reason, keys in refusals():
        sent.add((reason, keys | {"job"} if reason in OF_THE_JOB and where.startswith("core/") else keys))
    named = {(reason, keys) for reason, alternatives in METADATA.items() for keys in alternatives}
    assert {reason for reason, _ in named - sent} <= NOT_SENT_YET


def test_the_check_values_of_the_comments_are_right() -> None:
    layout = Layout((Tensor("weight", (1, 5)), Tensor("bias", ())))
    assert re.search(r"is ([0-9a-f]{64})\.", PROTO)[1] == layout.digest.hex()  # type: ignore[index]
    assert int(re.search(r'"123456789" is\s+//\s+(0x[0-9a-f]{8})', PROTO)[1], 16) == crc32c(b"123456789")  # type: ignore[index]
