"""One update on two threads where torch's threads, like ours, sleep between updates.

torch's helpers spin for milliseconds after each update, at the expense of whoever shares the machine, which here are
the workers. OMP_WAIT_POLICY is read when torch is loaded, so this runs in a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

from tests.bench import kernels
from tests.bench.pairs import Figure

ELEMENTS = (1_000_000, 25_000_000)


def run() -> dict[str, list[Figure]]:
    """Figures as of `kernels`."""
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {title: [Figure(**figure) for figure in figures] for title, figures in json.loads(child.stdout).items()}


def main() -> None:
    kernels.ELEMENTS, kernels.THREADS = ELEMENTS, (2,)
    print(json.dumps({title: [dataclasses.asdict(f) for f in figures] for title, figures in kernels.run().items()}))


if __name__ == "__main__":
    main()
