"""300 MB in 2,000 tensors through the streams, with gRPC's default message limits on both sides."""

from __future__ import annotations

import numpy as np
import optimd
import pytest

from tests.support.servers import ServerProcess

pytestmark = [pytest.mark.alone, pytest.mark.long]

TENSORS = 2_000
# 3 large ones of 40 MB, the rest of all sizes around 90 kB, odd on purpose; about 300 MB in all.
SIZES = [10_000_000 + 1, 10_000_000 + 2, 10_000_000 + 3, *(22_500 + i % 97 for i in range(TENSORS - 3))]


def test_created_trained_and_pulled() -> None:
    rng = np.random.default_rng(0)
    start = {f"layer{i}.weight": rng.standard_normal(size, np.float32) for i, size in enumerate(SIZES)}
    assert sum(array.nbytes for array in start.values()) >= 300_000_000
    assert len(start) == TENSORS
    gradients = {name: np.full(array.shape, 0.5, np.float32) for name, array in start.items()}
    streams = ServerProcess("--no-shared-memory")
    with streams as server, optimd.connect(server.address, job="large", worker="w0") as worker:
        worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1))
        pulled = worker.pull()
        assert list(pulled) == list(start)
        assert all(pulled[name].tobytes() == start[name].tobytes() for name in start)
        assert worker.push(gradients).status == "applied"
        worker.pull()
        result = worker.step(gradients)
        assert (result.status, result.global_step) == ("applied", 2)
        for name, array in start.items():
            expected = array - np.float32(0.5) - np.float32(0.5)
            assert result.parameters[name].tobytes() == expected.tobytes(), name
