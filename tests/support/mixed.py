"""A worker of the mixed load: `python -m tests.support.mixed ADDRESS JOB WORKER KIND SEED`; killed at any moment.

Every gradient has a number, which travels as its loss: whoever has the event log can make all of them again.
"""

from __future__ import annotations

import sys
import time
import zlib
from typing import Any

import numpy as np
import optimd
from numpy.typing import NDArray
from optimdpb.specs import JobSpec, Layout, Optimizer, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, push_header, push_messages

Float32s = NDArray[np.float32]
LAYOUT = Layout((Tensor("w", (70_001,)), Tensor("b", (7,))))
START = np.linspace(-1.0, 1.0, LAYOUT.elements).astype(np.float32)
RULE: Optimizer = optimd.Adam(1e-3)
MODELS: dict[str, Any] = {
    "sync": optimd.Sync(3, workers_min=1),
    "async": optimd.Async(staleness_max=50),
    "ssp": optimd.Ssp(staleness=5),
}
_PATTERNS = np.random.default_rng(0).standard_normal((16, LAYOUT.elements)).astype(np.float32)


def spec_of(job: str) -> JobSpec:
    """Of one of the jobs, which are called as their models."""
    return JobSpec(LAYOUT, RULE, MODELS[job])


def gradient(number: int) -> Float32s:
    """The gradient of that number."""
    made: Float32s = _PATTERNS[number % 16] * np.float32(1.0 + (number % 1009) / 1009)
    return made


def named(flat: Float32s) -> dict[str, Float32s]:
    """By tensor."""
    return {"w": flat[:70_001], "b": flat[70_001:]}


def _numbers(worker: str, seed: int) -> Any:
    start = zlib.crc32(f"{worker} {seed}".encode()) << 16
    return iter(range(start, start + (1 << 16)))


def _library(address: str, job: str, name: str, seed: int, in_place: bool) -> None:
    """The Python client; in place, or with arrays of its own."""
    worker = optimd.connect(address, job=job, worker=name, timeout_s=60)
    worker.ensure_job(named(START), RULE, MODELS[job])
    worker.pull(copy=not in_place)
    for number in _numbers(name, seed):
        time.sleep(0.01)
        gradients = named(gradient(number))
        if in_place:
            buffers = worker.gradient_buffers()
            for tensor, values in gradients.items():
                buffers[tensor][...] = values
            gradients = buffers
        worker.step(gradients, loss=float(number), copy=not in_place)


def _by_hand(address: str, job: str, name: str, seed: int) -> None:
    """A worker in another language: streams alone."""
    client = RawClient(address)
    epoch, numbers = client.join(job, name).epoch, _numbers(name, seed)
    for seq, number in enumerate(numbers, 1):
        time.sleep(0.01)
        version, _ = client.pull(job)
        header = push_header(job, name, epoch, seq, version, LAYOUT, loss=float(number))
        answer = client.call("Push", push_messages(header, gradient(number), 100_000))
        while answer.state != pb.PUSH_STATE_DONE:
            request = pb.AwaitOutcomeRequest(job=job, worker=name, epoch=epoch, seq=seq)
            answer = client.call("AwaitOutcome", request)


def main(address: str, job: str, name: str, kind: str, seed: str) -> None:
    """Work until killed."""
    if kind == "by hand":
        _by_hand(address, job, name, int(seed))
    else:
        _library(address, job, name, int(seed), kind == "in place")


if __name__ == "__main__":
    main(*sys.argv[1:])
