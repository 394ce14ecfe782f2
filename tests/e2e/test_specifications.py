"""How a server reads specifications, and how it tells one from another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optimd_server.runtime import ServerConfig
from optimd_server.service import jobs
from optimdpb.codec import job_spec_from_proto
from optimdpb.specs import SGD, SGDM, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient
from tests.support.servers import ThreadServer

SMALL = Layout((Tensor("w", (3,)),))
LARGE = Layout(tuple(Tensor(f"t{number:05}", (1,)) for number in range(5_000)))


@pytest.fixture
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1)) as running:
        yield running


@pytest.mark.parametrize(("layout", "on_loop"), [(SMALL, True), (LARGE, False)], ids=["small", "large"])
def test_large_ones_are_read_off_the_event_loop(
    server: ThreadServer, layout: Layout, on_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No heartbeat is answered meanwhile."""
    read_on: list[int] = []

    def read(message: Any) -> JobSpec:
        read_on.append(threading.get_ident())
        return job_spec_from_proto(message)

    monkeypatch.setattr(jobs, "job_spec_from_proto", read)
    with RawClient(server.address) as client:
        client.create("j", JobSpec(layout, SGD(0.1), Sync(1)), "w0")
    assert (read_on == [server.on_loop(threading.get_ident)]) == on_loop


def test_a_digest_tells_a_job_from_another_of_its_name(tmp_path: Path) -> None:
    """It is the same in every answer, and after a restart."""
    spec = JobSpec(SMALL, SGD(0.1), Sync(1))
    config = ServerConfig(threads=1, data_dir=tmp_path)
    with ThreadServer(config) as server, RawClient(server.address) as client:
        digest = client.create("j", spec, "w0").spec_digest
        client.create_ready("other", JobSpec(SMALL, SGDM(0.1), Sync(1)), np.zeros(3, np.float32))
        other = client.call("GetJob", pb.GetJobRequest(job="other")).spec_digest
        assert len(digest) == 32
        assert other != digest
    with ThreadServer(config) as server, RawClient(server.address) as client:
        assert client.call("GetJob", pb.GetJobRequest(job="other")).spec_digest == other
        assert client.call("Join", pb.JoinRequest(job="other", worker="w", spec_digest=other)).epoch
        assert client.create("j", spec, "w0").spec_digest == digest
