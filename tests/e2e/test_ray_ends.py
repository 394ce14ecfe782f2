"""However the driver ends, the server in its cluster saves and ends, and nothing waits for it in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optimd
import pytest

from tests.e2e.scene import eventually
from tests.support.servers import ServerProcess

pytest.importorskip("ray", reason="Ray is not installed")

# Pid of the server, and its job's lineage; then a line when all is done.
DRIVER = """
import os, sys, time
import numpy as np, optimd, ray
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
server = optimd.ray.start(threads=1, data_dir=sys.argv[1])
worker = server.connect(job="j", worker="w0")
worker.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
worker.pull()
for _ in range(3):
    worker.step({"w": np.ones(4, np.float32)})
(shell,) = ray.get(server.actor.__ray_call__.remote(lambda self: [self._child._process.pid]))
(daemon,) = open(f"/proc/{shell}/task/{shell}/children").read().split()
print(daemon, worker.status().lineage, flush=True)
sys.stdin.readline()
ray.shutdown()
began_s = time.monotonic()
server.stop()
server.stop()
for call in (worker.pull, lambda: server.connect(job="j", worker="w1")):
    try:
        call()
    except optimd.ServerUnavailable as error:
        assert "has ended with ray.shutdown()" in str(error), error
    else:
        raise AssertionError("expected a server that is known to have ended")
assert not ray.is_initialized(), "a cluster was started"
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
again_s = time.monotonic()
server.stop()
try:
    server.log()
except optimd.ServerUnavailable as error:
    assert "not in its cluster" in str(error), error
assert again_s - began_s < 60 and time.monotonic() - again_s < 5
print("done", flush=True)
ray.shutdown()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [pytest.param("shutdown", marks=pytest.mark.long), "killed"])
def test_the_server_saves_and_ends_with_the_driver(how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "saved")]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    first = driver.stdout.readline().split()
    assert len(first) == 2, first
    daemon, lineage = int(first[0]), first[1]
    if how == "killed":
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate(timeout=30)
    else:
        said, _ = driver.communicate("\n", timeout=100)
        assert (driver.returncode, said) == (0, "done\n")
    eventually(lambda: not is_running(daemon), "the server to end", timeout_s=60)
    with (
        ServerProcess("--data-dir", str(tmp_path / "saved")) as server,
        optimd.connect(server.address, job="j", observer=True) as observer,
    ):
        status = observer.status()
        assert (status.lineage, status.global_step) == (lineage, 3)
        assert np.array_equal(observer.pull()["w"], np.full(4, -3.0, np.float32))
