"""Pushes in fewer bytes: over TCP on this machine, and through a link of 1 Gbit/s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optimd.encoding import encoder_of
from optimdpb.encodings import payload_bytes

from tests.bench.link import Link
from tests.bench.pairs import Claim, Figure, turns
from tests.bench.wire import pusher
from tests.support.servers import ServerProcess

ELEMENTS = 25_000_000
ROUNDS = 11
GBIT_BYTES_PER_S = 125e6
DTYPES = ("float32", "bfloat16", "int8")


def run() -> dict[str, Sequence[Figure | Claim]]:
    """Ratios to float32. The jobs have nothing to update."""
    gradient = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    results: dict[str, Sequence[Figure | Claim]] = {}
    with ServerProcess("--no-shared-memory") as server, Link(server.address, GBIT_BYTES_PER_S) as link:
        for title, address, least in (("loopback", server.address, (1.8, 1.8)), ("1 Gbit/s", link.address, (1.8, 3.0))):
            workers = {dtype: pusher(address, f"{title[0]}-{dtype}", gradient, push_dtype=dtype) for dtype in DTYPES}
            found = turns(workers, ROUNDS)
            results[f"push of {ELEMENTS:,} parameters, {title}"] = [
                *found.figures(),
                Claim("bfloat16, throughput against float32", found.ratio("float32", "bfloat16"), least[0], False),
                Claim("int8, throughput against float32", found.ratio("float32", "int8"), least[1], False),
            ]
    sizes = {dtype: payload_bytes(encoder_of(dtype, ELEMENTS).encoding, ELEMENTS) for dtype in DTYPES}
    results["bytes of a push"] = [Claim("float32 / int8", sizes["float32"] / sizes["int8"], 3.8, False)]
    return results
