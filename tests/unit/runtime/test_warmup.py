"""Once the server serves nothing is compiled any more: compiling takes a second, often on the event loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import secrets
import subprocess
import sys
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from optimd_server.core.events import (
    Push,
    PushCommitted,
    PushOffered,
    RangeTestRequested,
    UploadCompleted,
)
from optimd_server.optimizers import RULES
from optimd_server.optimizers.warmup import compile_kernels
from optimd_server.runtime import JobHost, Runtime, ServerConfig
from optimd_server.runtime.images import image_of
from optimdpb.checksum import crc32c
from optimdpb.encodings import payload_bytes
from optimdpb.specs import Async, Clip, ClipGlobalNorm, ClipTensorNorm, ClipValue, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

SMALL = Layout((Tensor("w", (7,)), Tensor("b", (3,))))
LARGE = Layout((Tensor("w", (20_000,)), Tensor("s", (5,), "buffer")))
# Layout and clip of the jobs of each rule.
SHAPES: list[tuple[Layout, Clip | None]] = [
    (SMALL, None),
    (LARGE, ClipGlobalNorm(1.0)),
    (LARGE, ClipTensorNorm(1.0)),
    (SMALL, ClipValue(1.0)),
]
DELAYED = Async(staleness_max=5, delay_compensation=0.1)
ENCODINGS = {pb.ENCODING_F32: np.float32, pb.ENCODING_BF16: np.uint16, pb.ENCODING_INT8_BLOCK: np.uint8}


def compiled() -> dict[Any, set[str]]:
    """The signatures of every kernel that there is."""
    kernels = [found for found in gc.get_objects() if isinstance(found, Dispatcher)]
    return {
        (each.py_func.__module__, each.py_func.__qualname__, id(each)): set(map(str, each.signatures))
        for each in kernels
    }


async def created(runtime: Runtime, name: str, spec: JobSpec) -> JobHost:
    host, answer = await runtime.create(name, spec, "w0")
    assert answer is not None
    vector = host.shards.upload_vector()
    parameters = np.ones(spec.layout.elements, np.float32).view(np.uint8)
    vector.write(0, parameters, crc32c(parameters))
    host.handle(UploadCompleted(answer.token, secrets.token_hex(16)))  # type: ignore[union-attr]
    return host


def push(host: JobHost, worker: str, epoch: int, seq: int, encoding: int, base_step: int) -> None:
    version = host.machine.version
    header = Push(worker, epoch, seq, type(version)(version.lineage, base_step), 1.0, 0.5)
    host.handle(PushOffered(header))
    staged = host.stage(header, ENCODINGS[encoding])
    data = np.zeros(payload_bytes(encoding, host.spec.layout.elements), np.uint8)
    staged.write(0, data, crc32c(data))
    host.handle(PushCommitted(header, staged.magnitude_max))


async def push_shared(host: JobHost, worker: str, epoch: int, seq: int) -> None:
    header = Push(worker, epoch, seq, host.machine.version, 1.0, 0.5)
    host.handle(PushOffered(header))
    host.handle(PushCommitted(header, await host.scan(header, host.adopt(header, 1))))


async def train(host: JobHost) -> None:
    """Every way of a gradient, stale ones too, and of the parameters."""
    epochs = {f"w{index}": host.join(f"w{index}").epoch for index in range(3)}
    for seq, encodings in enumerate(itertools.permutations(ENCODINGS), 1):
        first_step = host.machine.version.step
        for (worker, epoch), encoding in zip(epochs.items(), encodings, strict=True):
            push(host, worker, epoch, seq, encoding, first_step)
        await host.drain()
    if host.sharing.parameters is not None:
        for worker, epoch in epochs.items():
            await host.open_shared(worker, epoch)
        await asyncio.gather(*(push_shared(host, worker, epoch, 7) for worker, epoch in epochs.items()))
        await host.drain()
    for encoding in (pb.ENCODING_F32, pb.ENCODING_BF16):
        await host.parameters.encoded(encoding)
    await image_of(host)
    host.handle(RangeTestRequested("r", "", 0.0, 1e-3, 1e-1, 10, "linear", "sweep"))
    await host.drain()


async def run() -> None:
    for one_thread_bytes_max, shards in ((0, 1), (0, 3), (1 << 20, 1)):
        settings = {"shards": shards, "one_thread_bytes_max": one_thread_bytes_max}
        runtime = Runtime(ServerConfig(threads=2, inline_bytes_max=64, jobs_max=10_000, **settings))
        shapes, names = itertools.cycle(SHAPES), (f"j{number}" for number in itertools.count())
        for rule in RULES:
            for layout, clip in itertools.islice(shapes, 1 if rule.measure is None else len(SHAPES)):
                spec = JobSpec(layout, rule.spec_class(lr=0.1), Sync(3), clip=clip)
                await train(await created(runtime, next(names), spec))
        for layout, clip in SHAPES:
            spec = JobSpec(layout, RULES[0].spec_class(lr=0.1), DELAYED, clip=clip)
            await train(await created(runtime, next(names), spec))
        await runtime.close()


def main() -> None:
    """Print what was compiled after the warm-up."""
    compile_kernels()
    before = compiled()
    asyncio.run(run())
    for key, signatures in compiled().items():
        for signature in signatures - before.get(key, set()):
            print(*key[:2], signature)


def test_nothing_is_compiled_after_the_warm_up() -> None:
    """In a process of its own: in this one other tests have compiled."""
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    assert run.stdout == ""


if __name__ == "__main__":
    main()
