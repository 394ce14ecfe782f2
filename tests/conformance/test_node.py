"""A worker written in Node from the contract alone trains beside a Python worker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.servers import ServerProcess

NODE = Path(__file__).parent / "node"
PROTO = Path(__file__).parents[2] / "proto" / "optimd" / "v1" / "optimd.proto"
STEPS = 200

PYTHON_WORKER = """
import json, sys
import numpy as np
import optimd

address, steps = sys.argv[1], int(sys.argv[2])
rows = np.array([[np.sin((i + 1) * (j + 1)) for j in range(4)] for i in range(0, 32, 2)])
applied = 0
with optimd.connect(address, job="lsq", worker="python") as worker:
    adam = optimd.Adam(optimd.Cosine(0.3, 1e-3, steps))
    worker.ensure_job({"x": np.zeros(4, np.float32)}, adam, optimd.Sync(2), steps_max=steps)
    x = worker.pull()["x"]
    while True:
        gradient = rows.T @ (rows @ (x - np.arange(1, 5))) / len(rows)
        result = worker.step({"x": gradient.astype(np.float32)}, weight=16)
        applied += result.status == "applied"
        x = result.parameters["x"]
        if result.finished:
            break
print(json.dumps({"applied": applied, "step": result.global_step, "x": x.tolist()}))
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is absent: the Node worker is not run")
@pytest.mark.skipif(
    not (NODE / "node_modules").exists(), reason="no node_modules: run npm ci in tests/conformance/node"
)
def test_a_node_worker_trains_beside_a_python_worker() -> None:
    with ServerProcess() as server:
        python = subprocess.Popen(
            [sys.executable, "-c", PYTHON_WORKER, server.address, str(STEPS)], stdout=subprocess.PIPE
        )
        node = subprocess.Popen(
            ["node", "worker.js", str(PROTO), server.address, "lsq", "node"], cwd=NODE, stdout=subprocess.PIPE
        )
        said = [json.loads(process.communicate(timeout=60)[0]) for process in (python, node)]
    for one in said:
        assert one["applied"] == STEPS
        assert one["step"] == STEPS
        np.testing.assert_allclose(one["x"], [1, 2, 3, 4], atol=1e-3)
    assert said[0]["x"] == said[1]["x"]


def test_the_node_worker_stays_short() -> None:
    assert len((NODE / "worker.js").read_text().splitlines()) <= 60
