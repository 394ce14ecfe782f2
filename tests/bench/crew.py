"""Worker processes that make one round together each time they are told to: `python -m tests.bench.crew KIND ...`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import optimd


class Crew:
    """Child processes, one for each worker; round() returns when all have made theirs."""

    def __init__(self, kind: str, workers: int, *arguments: object) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.crew", kind, str(rank), str(workers), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(workers)
        ]
        self._wait()

    def round(self) -> None:
        """Everybody makes one step."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        self._wait()

    def close(self) -> None:
        """End the children."""
        for process in self._processes:
            process.communicate(timeout=60)

    def _wait(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "done\n", f"a worker ended: {line!r}"


def _serve(step: Callable[[], object]) -> None:
    print("done", flush=True)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def _optimd(rank: int, workers: int, address: str, job: str, elements: str) -> None:
    """In place where memory is shared."""
    with optimd.connect(address, job=job, worker=f"w{rank:03}") as worker:
        start = {"w": np.zeros(int(elements), np.float32)}
        worker.ensure_job(start, optimd.Adam(1e-3), optimd.Sync(workers))
        worker.pull(copy=False)
        rng = np.random.default_rng(rank)
        values = rng.standard_normal(int(elements), np.float32)
        filled: set[int] = set()

        def step() -> None:
            buffers = worker.gradient_buffers()
            address = buffers["w"].__array_interface__["data"][0]
            if address not in filled:  # a real worker computes its gradient there; that is not measured
                buffers["w"][...] = values
                filled.add(address)
            worker.step(buffers, copy=False)

        step()
        _serve(step)


def _gloo(rank: int, workers: int, port: str, elements: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(max(1, 2 // workers))
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    parameter = torch.zeros(int(elements), requires_grad=True)
    parameter.grad = torch.randn(int(elements), generator=torch.Generator().manual_seed(rank))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)

    def step() -> None:
        dist.all_reduce(parameter.grad)
        assert parameter.grad is not None
        parameter.grad /= workers
        optimizer.step()

    step()
    _serve(step)
    dist.destroy_process_group()


KINDS: dict[str, Callable[..., Any]] = {"optimd": _optimd, "gloo": _gloo}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
