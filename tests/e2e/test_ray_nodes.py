"""A cluster of two nodes with addresses of their own, as far as one machine has them: 127.0.0.2 is the second one's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

# Ray notes the cluster in its folder for every other program; this one gets a folder of its own.
PROGRAM = """
import os, time
import numpy as np, optimd, ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
second = cluster.add_node(num_cpus=3, resources={"second": 1}, node_ip_address="127.0.0.2")
ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")

def train(server, name, steps):
    with server.connect(job="j", worker=name) as worker:
        worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(2), steps_max=steps)
        worker.pull()
        while not worker.step({"w": np.ones(4, np.float32)}).finished:
            pass
    return ray.get_runtime_context().get_node_id()

def refused(**options):
    try:
        optimd.ray.start(threads=1, **options)
    except optimd.ServerUnavailable as error:
        return str(error)
    raise AssertionError(options)

nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes()}
head = next(ip for ip in nodes if ip != "127.0.0.2")
why = refused(scheduling_strategy=On(nodes[head], soft=False))
assert "the cluster has 2 nodes" in why and "insecure=True" in why and head in why, why

server = optimd.ray.start(threads=1, resources={"second": 1})
assert server.address.startswith("127.0.0.2:") and server.place.node_id == nodes["127.0.0.2"], server
tasks = [
    ray.remote(train).options(scheduling_strategy=On(node, soft=False)).remote(server, f"w{i}", 5)
    for i, node in enumerate(nodes.values())
]
assert ray.get(tasks, timeout=100) == list(nodes.values())

why = refused(resources={"second": 1}, startup_timeout_s=1)
assert "no room for the server's actor (num_cpus=1, resources={'second': 1}) in 1 s" in why, why

observer = server.connect(job="j", observer=True)
began_s = time.monotonic()
cluster.remove_node(second, allow_graceful=False)
try:
    while True:
        observer.status()
        time.sleep(0.1)
except optimd.ServerUnavailable as error:
    assert "has ended with its actor" in str(error), error
assert time.monotonic() - began_s < 45
server.stop()
ray.shutdown()
cluster.shutdown()
print("done")
"""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_server_is_reached_from_both_nodes() -> None:
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # sockets need short paths
        environment = {**os.environ, "RAY_TMPDIR": folder}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert (done.returncode, done.stdout[-5:]) == (0, "done\n"), done.stdout + done.stderr
