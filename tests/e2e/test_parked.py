"""A thousand workers that wait for one round take memory, but no threads."""

from __future__ import annotations

import pytest

from tests.support.parked import park
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.alone

WORKERS = 1000
THREADS_MORE_MAX = 8


def test_a_thousand_workers_parked_in_one_round() -> None:
    with ServerProcess("--lease-s", "120") as server:
        found = park(server.address, server.process.pid, WORKERS)
    assert found.applied == WORKERS
    more = found.parked.threads - found.before.threads
    assert more <= THREADS_MORE_MAX, f"{more} threads more with {WORKERS} workers parked"
    connection_bytes = (found.connected.resident_bytes - found.before.resident_bytes) / WORKERS
    parked_bytes = (found.parked.resident_bytes - found.connected.resident_bytes) / WORKERS
    print(
        f"{WORKERS} workers: {found.parked.threads} threads ({more} more than before), for each worker "
        f"{connection_bytes / 1024:.1f} KiB of connection and {parked_bytes / 1024:.1f} KiB while parked"
    )
