"""Imports everything that has no extra, starts a server and trains three steps. Exits 0, or fails loudly."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import numpy as np
import optimd

NAMES = ("grpcio", "protobuf", "numpy", "numba", "google-crc32c", "click", "rich", "pydantic-settings")


def main() -> None:
    command = [sys.executable, "-m", "optimd_server", "serve", "--listen", "127.0.0.1:0", "--until-stdin-closes"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.stdout is not None
    line = server.stdout.readline().decode().strip()
    assert line.startswith("serving on "), line
    address = line.removeprefix("serving on ")
    with optimd.connect(address, job="smoke", worker="w0") as worker:
        worker.ensure_job({"w": np.ones(3, np.float32)}, optimd.SGD(0.5), optimd.Sync(1))
        parameters = worker.pull()
        for _ in range(3):
            parameters = worker.step(parameters).parameters
    assert np.array_equal(parameters["w"], np.full(3, 0.125, np.float32)), parameters
    shown = subprocess.run(
        [sys.executable, "-m", "optimd", "status", "--server", address, "--json"], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["jobs"][0]["global_step"] == 3, shown
    server.communicate(timeout=60)
    assert server.returncode == 0, server.returncode
    print("works with", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NAMES))


if __name__ == "__main__":
    main()
