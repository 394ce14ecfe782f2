"""N workers' gradients reduced and stepped in one pass, against summing them first; ratios to one worker's update."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optimd_server.core.effects import Contribution
from optimd_server.optimizers.kernels import TILE_ELEMENTS, reduce_blocks
from optimd_server.runtime.threads import KernelThreads
from optimd_server.state.pieces import blocks_of
from optimdpb.specs import Adam

from tests.bench.pairs import Figure, alternate
from tests.support.trainer import Part, Trainer, spec_of

ELEMENTS = 25_000_000
WORKERS = (1, 2, 4, 8)
THREADS = (1, 2)
ROUNDS = 9
SUM = Contribution("sum", 1, 1, 1.0, 1.0)


def run() -> dict[str, list[Figure]]:
    """Figures by threads."""
    return {f"adam {ELEMENTS:,} parameters, {threads} threads": _reduce(threads) for threads in THREADS}


def _reduce(threads: int) -> list[Figure]:
    trainer = Trainer(spec_of(Adam(1e-3), ELEMENTS), np.zeros(ELEMENTS, np.float32), threads=threads)
    pool = KernelThreads(threads)
    random = np.random.default_rng(0)
    for worker in range(max(WORKERS)):
        trainer.stage([Part(f"w{worker}", 1.0, random.standard_normal(ELEMENTS, np.float32))])
    peers = {f"{count} workers, one pass": _one_pass(trainer, count) for count in WORKERS}
    peers |= {f"{count} workers, summed first": _summed_first(trainer, pool, count) for count in WORKERS[1:]}
    figures = alternate(peers, ROUNDS)
    pool.close()
    trainer.close()
    return figures


def _one_pass(trainer: Trainer, count: int) -> Callable[[], object]:
    parts = tuple(Contribution(f"w{worker}", 1, 1, 1.0 / count, 1.0 / count) for worker in range(count))
    return lambda: trainer.close_round(parts)


def _summed_first(trainer: Trainer, pool: KernelThreads, count: int) -> Callable[[], object]:
    (shard,) = trainer.group.shards
    summed, staged = shard.stage("sum", 1), [shard.stage(f"w{worker}", 1) for worker in range(count)]
    addresses = np.array([gradient.ctypes.data for gradient in staged], np.uint64)
    scales = np.full(count, 1.0 / count, np.float32)
    blocks = blocks_of(np.array([[0, ELEMENTS, 0]]), 0, ELEMENTS)
    scratch = np.empty((pool.threads, TILE_ELEMENTS), np.float32)

    def step() -> None:
        pool.run(lambda turn, of: reduce_blocks(summed, addresses, scales, blocks, turn, of, scratch[turn]))
        trainer.close_round((SUM,))

    return step
