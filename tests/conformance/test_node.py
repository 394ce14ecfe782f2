"""A worker written in Node from the contract alone trains beside a Python worker."""

from __future__ import annotations

import shutil

import pytest

from tests.conformance.plane import ROOT, STEPS, Other, by_python_alone, work
from tests.support.servers import ServerProcess

NODE = ROOT / "tests" / "conformance" / "node"
PROTO = ROOT / "proto" / "optimd" / "v1" / "optimd.proto"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is absent: the Node worker is not run")
@pytest.mark.skipif(
    not (NODE / "node_modules").exists(), reason="no node_modules: run npm ci in tests/conformance/node"
)
def test_a_node_worker_computes_what_python_does() -> None:
    with ServerProcess() as server:
        started: list[Other] = []

        def before_step(step: int) -> None:
            if not started:
                started.append(Other(["node", "worker.js", PROTO, server.address, "plane", "node"], cwd=NODE))

        python = work(server.address, "plane", before_step=before_step)
        with started[0] as node:
            assert node.trained() == python == by_python_alone(server.address)
    assert python.applied == python.step == STEPS
    assert python.loss < 1e-4


def test_the_node_worker_stays_short() -> None:
    assert len((NODE / "worker.js").read_text().splitlines()) <= 60
