"""N workers' gradients reduced and stepped in one pass, against summing them first; ratios to one worker's update."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optimd_server.core.effects import Contribution
from optimd_server.optimizers.gradients import Sources, reduce_blocks
from optimd_server.optimizers.kernels import BLOCK_ELEMENTS
from optimd_server.runtime.threads import KernelThreads
from optimd_server.state.pieces import blocks_of
from optimdpb.specs import Adam

from tests.bench.pairs import Figure, alternate
from tests.bench.streams import Streams
from tests.support.trainer import Part, Trainer, spec_of

ELEMENTS = 25_000_000
WORKERS = (1, 2, 4, 8)
THREADS = (1, 2)
ROUNDS = 9
SUM = Contribution("sum", 1, 1, 1.0, 1.0, 0)


def run() -> dict[str, list[Figure]]:
    """Figures by threads."""
    return {f"adam {ELEMENTS:,} parameters, {threads} threads": _reduce(threads) for threads in THREADS}


def _reduce(threads: int) -> list[Figure]:
    trainer = Trainer(spec_of(Adam(1e-3), ELEMENTS), np.zeros(ELEMENTS, np.float32), threads=threads)
    pool = KernelThreads(threads)
    random = np.random.default_rng(0)
    gradients = [random.standard_normal(ELEMENTS, np.float32) for _ in range(max(WORKERS))]
    for worker, gradient in enumerate(gradients):
        trainer.stage([Part(f"w{worker}", 1.0, gradient)])
    streams = Streams(gradients[:4], 2, threads)
    peers = {f"{count} workers, one pass": _one_pass(trainer, count) for count in WORKERS}
    peers |= {f"{count} workers, summed first": _summed_first(trainer, pool, count) for count in WORKERS[1:]}
    peers["the memory of 4, no rule"] = streams.move
    figures = alternate(peers, ROUNDS)
    streams.close()
    pool.close()
    trainer.close()
    return figures


def _one_pass(trainer: Trainer, count: int) -> Callable[[], object]:
    parts = tuple(Contribution(f"w{worker}", 1, 1, 1.0 / count, 1.0 / count, 0) for worker in range(count))
    return lambda: trainer.close_round(parts)


def _summed_first(trainer: Trainer, pool: KernelThreads, count: int) -> Callable[[], object]:
    (shard,) = trainer.group.shards
    summed, staged = shard.stage("sum", 1), [shard.stage(f"w{worker}", 1) for worker in range(count)]
    addresses = np.array([gradient.ctypes.data for gradient in staged], np.uint64)
    sources = Sources(addresses, np.full(count, 1.0 / count, np.float32), np.full(count, 4))
    blocks = blocks_of(np.array([[0, ELEMENTS, 0]]), 0, ELEMENTS)
    scratch = np.empty((pool.threads, BLOCK_ELEMENTS), np.float32)

    def step() -> None:
        pool.run(lambda thread, *part: reduce_blocks(summed, *sources, blocks, *part, scratch[thread]), len(blocks))
        trainer.close_round((SUM,))

    return step
