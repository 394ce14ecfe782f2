"""Promise P4: a refused request changes nothing and says what was expected and what came.

Every row of bad input against the real server over gRPC: the answer, what it left behind, and that work goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import pytest
from optimdpb.errors import STATUS_OF_REASON
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e import rows_changes, rows_garbage, rows_jobs, rows_push
from tests.e2e.scene import CONFIGS, Row, Scene, peak_memory_bytes
from tests.support.calls import RawClient, reason_of
from tests.support.contract import metadata_of_reasons, names_a_field
from tests.support.servers import ThreadServer

# No bad request may cost more memory than one of gRPC's largest messages, a few times over.
MEMORY_GROWTH_BYTES_MAX = 32 << 20
# What a client can still receive: gRPC's limits for trailers and messages.
ANSWER_BYTES_MAX = 8 << 10
METADATA = metadata_of_reasons()

_job_numbers = itertools.count()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ThreadServer]]:
    started = {name: ThreadServer(config) for name, config in CONFIGS.items() if name != "full"}
    yield started
    for server in started.values():
        server.stop()


@pytest.mark.parametrize(
    "row", [*rows_jobs.ROWS, *rows_garbage.ROWS, *rows_changes.ROWS, *rows_push.ROWS], ids=lambda row: row.name
)
def test_bad_request(row: Row, servers: dict[str, ThreadServer]) -> None:
    if row.server in servers:
        check(row, servers[row.server])
    else:  # its limits leave room for one job
        with ThreadServer(CONFIGS[row.server]) as server:
            check(row, server)


def check(row: Row, server: ThreadServer) -> None:
    """One row: its answer, what it changed (its seq at most), and a good step after it."""
    with RawClient(server.address) as client:
        scene = Scene(server, client, f"job-{next(_job_numbers)}")
        row.arrange(scene)
        jobs, state, seq = set(server.runtime.jobs), server.state_hash(scene.job), scene.last_seq()
        peak_bytes = peak_memory_bytes(reset=True)
        check_answer(row, scene)
        client.call("GetServerInfo", pb.GetServerInfoRequest())  # behind the request, also where that was cut off
        assert peak_memory_bytes() - peak_bytes < MEMORY_GROWTH_BYTES_MAX
        assert set(server.runtime.jobs) == jobs
        assert server.state_hash(scene.job) == state
        assert scene.last_seq() - seq == row.consumed
        scene.good_step()


def check_answer(row: Row, scene: Scene) -> None:
    try:
        answer = row.send(scene)
    except grpc.RpcError as error:
        check_refusal(row, error)
        return
    if row.outcome is None:
        assert answer is None, f"expected {row.reason or 'no answer'}, got {answer!s:.500}"
        return
    status, reason = row.outcome
    assert answer.state == pb.PUSH_STATE_DONE
    assert pb.OutcomeStatus.Name(answer.outcome.status) == f"OUTCOME_STATUS_{status}"
    assert pb.OutcomeReason.Name(answer.outcome.reason) == f"OUTCOME_REASON_{reason}"
    assert 0 < len(answer.outcome.detail.encode()) < ANSWER_BYTES_MAX


def check_refusal(row: Row, error: grpc.RpcError) -> None:
    reason, metadata = reason_of(error)
    assert (error.code().name, reason) == (STATUS_OF_REASON.get(row.reason), row.reason), error.details()
    assert metadata.items() >= row.metadata.items(), metadata
    assert frozenset(metadata) in METADATA[reason], "expected the keys that the contract names"
    assert reason == "MALFORMED_REQUEST" or names_a_field(metadata.get("field", "job")), metadata
    assert error.details(), "expected a message for people"
