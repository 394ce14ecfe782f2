"""Compile every kernel once, on all cores: else each of the processes that run tests would compile them all."""

from __future__ import annotations

import multiprocessing
import os
import time

from optimd_server.optimizers.warmup import GROUPS, compile_rule


def compile_one(place: int) -> None:
    """Of GROUPS."""
    compile_rule(GROUPS[place])


if __name__ == "__main__":
    started_s = time.monotonic()
    compile_one(0)  # others inline what is in these
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        pool.map(compile_one, range(1, len(GROUPS)), chunksize=1)
    print(f"kernels compiled, or found compiled, in {time.monotonic() - started_s:.1f} s")
