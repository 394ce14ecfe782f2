"""Who uploads a job's first parameters, and what becomes of a job that nobody uploads."""

from __future__ import annotations

import pytest
from optimd_server.core.creation import Creation
from optimd_server.core.effects import UploadAwaited, UploadNamed
from optimd_server.core.events import CreateRequested, UploadProgressed
from optimdpb.errors import Refused

from tests.unit.core.conftest import LEASE_S, Job


def test_two_callers_of_one_name_come_to_an_end() -> None:
    """Each asks again whenever its upload was taken from it; an upload takes ten chunks, one each second."""
    job = Job()
    tokens = {"first": 0, "second": 0}
    done = {"first": 0, "second": 0}
    taken = 0
    while max(done.values()) < 10:
        for caller, token in tokens.items():
            try:
                job.send(UploadProgressed(token))
                done[caller] += 1
            except Refused:
                (answer, *_) = job.send(CreateRequested("observer"))
                if isinstance(answer, UploadNamed):
                    tokens[caller], done[caller], taken = answer.token, 0, taken + 1
        job.now_s += 1.0
        assert job.now_s < 200.0, "they took it from each other for ever"
    assert taken == 1


@pytest.mark.parametrize(("silent_s", "named"), [(0.0, False), (LEASE_S / 3, False), (LEASE_S / 3 + 0.1, True)])
def test_an_uploader_that_starts_again_is_believed_once_its_upload_stands(silent_s: float, named: bool) -> None:
    job = Job()
    job.send(CreateRequested("w0"))
    job.now_s += 5.0 if silent_s else 0.0
    job.send(UploadProgressed(job.machine.state.creation.token))
    job.now_s += silent_s
    assert isinstance(job.send(CreateRequested("w0"))[0], UploadNamed if named else UploadAwaited)
    assert isinstance(job.send(CreateRequested("w1"))[0], UploadAwaited)


def test_a_job_that_nobody_asks_for_is_forgotten() -> None:
    creation = Creation(LEASE_S)
    creation.request("w0", 1, 100.0)
    assert not creation.is_forgotten(100.0 + LEASE_S, 5.0), "the lease is not over"
    assert creation.is_forgotten(100.1 + LEASE_S, 5.0)
    assert not creation.is_forgotten(159.9, 60.0)
    assert creation.is_forgotten(160.0, 60.0)
    creation.progress(1, 160.0)
    assert not creation.is_forgotten(219.9, 60.0)
    creation.request("w1", 2, 219.0)
    assert not creation.is_forgotten(278.0, 60.0)
    creation.extend(10.0)
    assert not creation.is_forgotten(288.0, 60.0)
    assert creation.is_forgotten(289.1, 60.0)
    creation.complete(2)
    assert not creation.is_forgotten(1e9, 60.0)
