"""Promise P1: the same contributions give the same bits, whatever the arrival order, thread count and shard count.

The real core, shards and threads against a one-process numpy loop: 200 steps, uneven weights, every arrival order.
"""

from __future__ import annotations

import asyncio
import functools
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from optimd_server.core.events import (
    CreateRequested,
    JoinRequested,
    Push,
    PushCommitted,
    PushOffered,
    UploadCompleted,
)
from optimd_server.runtime import JobHost, Runtime, ServerConfig
from optimd_server.schedules import value_at
from optimdpb.checksum import crc32c
from optimdpb.specs import SGD, SGDM, Adam, ClipGlobalNorm, Cosine, JobSpec, Layout, Optimizer, Sync, Tensor, Warmup

from tests.property.one_process import Contribution, OneProcess

STEPS = 200
CHUNK_BYTES = 1 << 18
# Tensor borders off every piece, block and lane border; more than two blocks, so that threads have something to share.
LAYOUT = Layout(
    (Tensor("a", (257, 301)), Tensor("scalar", ()), Tensor("none", (0, 3)), Tensor("b", (70_001,)), Tensor("c", (5,)))
)
WEIGHTS = [32.0, 7.0, 1e-3, 250.5]
LR = Warmup(Cosine(lr_max=0.05, lr_min=1e-4, steps=150), steps=20)
RULES: dict[str, Optimizer] = {
    "sgd": SGD(LR, weight_decay=1e-3),
    "heavy_ball": SGDM(LR, momentum=0.9, dampening=0.2),
    "nesterov": SGDM(LR, momentum=0.8, nesterov=True, weight_decay=1e-4),
    "ema": SGDM(LR, momentum=0.95, form="ema"),
    "adam": Adam(LR, weight_decay=1e-2),
    "adam_lecture": Adam(LR, beta1=0.3, beta2=0.9, eps=0.0, eps_root=1e-8),
}
# Every combination for the three rules that differ in kernel; their variants once, at the hardest corner.
EVERY = list(itertools.product(("sgd", "heavy_ball", "adam"), (1, 2, 4), (1, 2), (1, 2, 3), (None, 0.5)))
VARIANTS = list(itertools.product(("nesterov", "ema", "adam_lecture"), (4,), (2,), (3,), (None, 0.5)))
# Every fifth meets all pairs of two settings; five is prime to the length of each.
CORNERS = [
    *(pytest.param(*corner, marks=[] if place % 5 == 0 else pytest.mark.long) for place, corner in enumerate(EVERY)),
    *VARIANTS,
]


@functools.cache
def gradients() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    return [
        rng.standard_normal(LAYOUT.elements, np.float32) * np.float32(10.0 ** rng.integers(-4, 2)) for _ in range(11)
    ]


@functools.cache
def start() -> NDArray[np.float32]:
    return np.random.default_rng(6).standard_normal(LAYOUT.elements, np.float32)


@functools.cache
def expected(rule: str, workers: int, clip: float | None) -> OneProcess:
    """The loop's end."""
    loop = OneProcess(LAYOUT, start(), RULES[rule], clip)
    for step in range(STEPS):
        parts = [Contribution(f"w{i}", WEIGHTS[i], _gradient(step, i)) for i in range(workers)]
        loop.round(parts, value_at(LR, step))
    return loop


@pytest.mark.parametrize(("rule", "workers", "threads", "shards", "clip"), CORNERS)
def test_bits_equal_the_one_process_loop(
    rule: str,
    workers: int,
    threads: int,
    shards: int,
    clip: float | None,
) -> None:
    spec = JobSpec(LAYOUT, RULES[rule], Sync(workers), clip=ClipGlobalNorm(clip) if clip else None)
    config = ServerConfig(
        threads=threads, shards=shards, inline_bytes_max=0, one_thread_bytes_max=0, chunk_bytes_max=CHUNK_BYTES
    )
    parameters, slots = asyncio.run(_train(spec, config))
    loop = expected(rule, workers, clip)
    assert parameters.tobytes() == loop.parameters.tobytes()
    assert slots.tobytes() == loop.slots.tobytes()
    assert np.isfinite(parameters).all()
    assert not np.array_equal(parameters, start())


def _gradient(step: int, worker: int) -> NDArray[np.float32]:
    return gradients()[(step * 3 + worker * 5) % len(gradients())]


async def _train(spec: JobSpec, config: ServerConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """200 rounds through the runtime; the arrival order runs through all permutations."""
    runtime = Runtime(config)
    await runtime.start()
    host = runtime.find_or_create("job", spec)
    host.handle(CreateRequested("w0"))
    vector = host.shards.upload_vector()
    _write(vector, start())
    host.handle(UploadCompleted(host.machine.state.creation.token, "lineage"))
    assert isinstance(spec.consistency, Sync)
    epochs = [_join(host, f"w{i}") for i in range(spec.consistency.workers)]
    orders = itertools.cycle(itertools.permutations(range(len(epochs))))
    for step in range(STEPS):
        for i in next(orders):
            push = Push(f"w{i}", epochs[i], step + 1, host.machine.version, WEIGHTS[i])
            host.handle(PushOffered(push))
            staged = host.shards.stage(push.worker, push.epoch)
            _write(staged, _gradient(step, i))
            host.handle(PushCommitted(push, staged.magnitude_max))
        await host.drain()
        host.machine.check_invariants()
        assert host.machine.version.step == step + 1
    result = host.shards.flat_parameters(), host.shards.flat_slots()
    await runtime.close()
    return result


def _join(host: JobHost, worker: str) -> int:
    host.handle(JoinRequested(worker))
    return host.machine.state.members.last_epoch


def _write(vector: object, values: NDArray[np.float32]) -> None:
    data = values.view(np.uint8)
    for offset in range(0, data.size, CHUNK_BYTES):
        chunk = data[offset : offset + CHUNK_BYTES]
        vector.write(offset, chunk, crc32c(chunk))  # type: ignore[attr-defined]


def test_there_is_more_than_one_block_per_thread() -> None:
    """The corners above would prove nothing about threads on a vector of one block."""
    from optimd_server.state.pieces import blocks_of, runs_of

    assert len(blocks_of(runs_of(LAYOUT, [0] * len(LAYOUT.tensors)), 0, LAYOUT.elements)) >= 3
