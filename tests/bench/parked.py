"""Memory of a real server for each worker parked in one round; its threads do not grow with them."""

from __future__ import annotations

from tests.bench.pairs import Figure
from tests.support.parked import park
from tests.support.servers import ServerProcess

WORKERS = (10, 100, 1000)


def run() -> dict[str, list[Figure]]:
    """Nothing is timed: prints threads, and KiB for each worker connected and parked."""
    for workers in WORKERS:
        with ServerProcess("--lease-s", "120") as server:
            found = park(server.address, server.process.pid, workers)
        connected = (found.connected.resident_bytes - found.before.resident_bytes) / workers / 1024
        parked = (found.parked.resident_bytes - found.connected.resident_bytes) / workers / 1024
        print(
            f"{workers:>6} workers: {found.parked.threads} threads, {connected:.1f} KiB connected, {parked:.1f} parked"
        )
    return {}
