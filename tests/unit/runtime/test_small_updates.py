"""Updates of small models are made on the event loop, one after the other, however many wait."""

from __future__ import annotations

import sys

import numpy as np
import optimd
from optimd_server.core.events import Push, PushCommitted, PushOffered
from optimd_server.runtime import JobHost, ServerConfig
from optimdpb.checksum import crc32c

from tests.support.servers import ThreadServer

ELEMENTS = 10


def push(host: JobHost, name: str) -> None:
    """A new worker's first, of ones."""
    event = Push(name, host.join(name).epoch, 1, host.machine.version, 1.0, None)
    data = np.ones(ELEMENTS, np.float32).view(np.uint8)
    host.handle(PushOffered(event))
    host.stage(event, np.float32).write(0, data, crc32c(data))
    host.handle(PushCommitted(event, 1.0))


def test_more_pushes_may_wait_than_python_nests_calls() -> None:
    count = sys.getrecursionlimit()
    with ThreadServer(ServerConfig(threads=1, lease_s=60.0)) as server:
        observer = optimd.connect(server.address, job="j", observer=True)
        observer.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(1.0), optimd.Async())
        observer.pause()
        host = server.host("j")
        server.on_loop(lambda: [push(host, f"w{i}") for i in range(count)])
        assert observer.status().global_step == 0
        observer.resume()
        assert observer.status().global_step == count
        assert observer.pull()["w"].tolist() == [-float(count)] * ELEMENTS
        observer.close()
