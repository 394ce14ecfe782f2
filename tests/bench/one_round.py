"""A full synchronous round of several workers on one machine: optimd, gloo all-reduce with local steps, a Ray actor."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import ray

from tests.bench import ray_peer
from tests.bench.crew import Crew
from tests.bench.pairs import Claim, Figure, turns
from tests.support.servers import ServerProcess

ELEMENTS = 25_000_000
WORKERS = 4
ROUNDS = 7


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Ratios to optimd in shared memory."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=3_000_000_000)
    crews: list[Crew] = []
    try:
        with ServerProcess() as server, ServerProcess("--no-shared-memory") as far:
            crews.append(Crew("optimd", WORKERS, server.address, "round", ELEMENTS))
            crews.append(Crew("optimd", WORKERS, far.address, "round", ELEMENTS))
            crews.append(Crew("gloo", WORKERS, _free_port(), ELEMENTS))
            crews.append(Crew("gloo", 2, _free_port(), ELEMENTS))
            peers: dict[str, Callable[[], object]] = {
                "optimd, shared memory": crews[0].round,
                "optimd, gRPC": crews[1].round,
                "gloo + local step": crews[2].round,
                "gloo + local step, 2 processes": crews[3].round,
                "Ray actor": ray_peer.crew(ELEMENTS, WORKERS),
            }
            found = turns(peers, ROUNDS)
            for crew in crews:
                crew.close()
    finally:
        ray.shutdown()
    ours = "optimd, shared memory"
    claims = [
        Claim(f"{name} / optimd, shared memory", found.ratio(name, ours), 5.0, at_most=False)
        for name in ("gloo + local step", "Ray actor")
    ]
    return {f"adam, {ELEMENTS:,} parameters, {WORKERS} workers": [*found.figures(), *claims]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
