"""A void round or a rejected push leaves slots, count, step and schedule of every rule as they were, and is counted."""

from __future__ import annotations

import numpy as np
import optimd
import pytest
from numpy.typing import NDArray
from optimd_server.runtime import ServerConfig

from tests.conformance.optimizers.rows import ROWS, Row
from tests.support.servers import ThreadServer
from tests.support.trainer import Trainer, spec_of

Float32s = NDArray[np.float32]

ELEMENTS = 9000
START = np.linspace(-1, 1, ELEMENTS).astype(np.float32)
TOO_LARGE = np.full(ELEMENTS, 3e18, np.float32)
BROKEN = np.full(ELEMENTS, np.nan, np.float32)


@pytest.fixture(scope="module")
def server():
    with ThreadServer(ServerConfig(threads=2, shards=2)) as running:
        yield running


def gradient(step: int) -> Float32s:
    return np.random.default_rng(step).standard_normal(ELEMENTS).astype(np.float32)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_void_and_rejected_rounds_are_no_ops(server: ThreadServer, row: Row) -> None:
    """Four good rounds with bad pushes between them, against four good rounds."""
    optimizer = row.draw(np.random.default_rng(9))
    expected = Trainer(spec_of(optimizer, ELEMENTS), START)
    job = f"void-{row.name}"
    with optimd.connect(server.address, job=job, worker="w0") as worker:
        worker.ensure_job({"w": START}, optimizer, optimd.Sync(1))
        worker.pull()
        for step in range(4):
            before = server.state_hash(job)
            for bad, reason in ((TOO_LARGE, "too_large"), (BROKEN, "non_finite")):
                result = worker.step({"w": bad})
                assert (result.status, result.reason, result.global_step) == ("rejected", reason, step)
                assert server.state_hash(job) == before
            result = worker.step({"w": gradient(step)})
            assert (result.status, result.global_step) == ("applied", step + 1)
            expected.update(gradient(step))
            assert result.parameters["w"].tobytes() == expected.parameters.tobytes()
        status = worker.status()
    assert (status.applied, status.rejected, status.rounds_void) == (4, 8, 8)
    assert server.vectors(job)[1].tobytes() == expected.slots.tobytes()
