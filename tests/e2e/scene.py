"""A small job on a real server, ready to be sent bad input, and what a bad request is expected to come to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimd_server.runtime import ServerConfig
from optimdpb.checksum import crc32c
from optimdpb.specs import SGDM, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, push_header, push_messages
from tests.support.servers import ThreadServer

LAYOUT = Layout((Tensor("w", (100, 10)), Tensor("b", (24,))))
SPEC = JobSpec(LAYOUT, SGDM(0.1), Sync(1))
CHUNK_BYTES = 1024
WORKER = "w0"
LIMITS = {
    "chunk_bytes_max": LAYOUT.size_bytes,
    "step_bytes_max": LAYOUT.size_bytes,
    "tensors_max": 8,
    "threads": 2,
}
CONFIGS = {
    "roomy": ServerConfig(jobs_max=1000, **LIMITS),
    "full": ServerConfig(jobs_max=1, workers_max=1, **{**LIMITS, "step_bytes_max": LAYOUT.size_bytes - 4}),
    "short spec": ServerConfig(spec_bytes_max=16 << 10, **LIMITS),
    "short lease": ServerConfig(lease_s=0.3, tick_interval_s=0.05, **LIMITS),
}


def eventually(true: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Return once true() holds; for state that changes by the server's clock alone."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, f"expected {what} within {timeout_s} s"
        time.sleep(0.005)


def peak_memory_bytes(*, reset: bool = False) -> int:
    """Most memory this process, the server in it included, has had in use since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class Scene:
    """A READY job of its own with one worker joined under `epoch`."""

    def __init__(self, server: ThreadServer, client: RawClient, job: str, spec: JobSpec = SPEC) -> None:
        self.server = server
        self.client = client
        self.job = job
        self.spec = spec
        self.start = np.linspace(-1.0, 1.0, spec.layout.elements, dtype=np.float32)
        client.create_ready(job, spec, self.start)
        self.epoch: int = client.join(job, WORKER).epoch
        self.gradient = np.full(spec.layout.elements, 0.5, np.float32)

    def call(self, name: str, request: Any) -> Any:
        """One call; the messages of a server stream as a list."""
        answer = self.client.call(name, request)
        return list(answer) if name == "Pull" else answer

    def version(self) -> pb.Version:
        """The job's version now."""
        header = self.call("GetJob", pb.GetJobRequest(job=self.job)).header
        return pb.Version(lineage=header.lineage, step=header.step)

    def last_seq(self) -> int:
        """The last seq of the scene's epoch that was consumed."""
        return self.server.last_seq(self.job, WORKER, self.epoch)

    def header(self, **fields: Any) -> pb.PushHeader:
        """The header of a good next push; `fields` override."""
        good = push_header(self.job, WORKER, self.epoch, self.last_seq() + 1, self.version(), self.spec.layout)
        values = {field.name: value for field, value in good.ListFields()}
        return pb.PushHeader(**{**values, **fields})

    def push(self, gradient: NDArray[np.float32] | None = None, **fields: Any) -> Any:
        """A whole push."""
        values = self.gradient if gradient is None else gradient
        return self.call("Push", push_messages(self.header(**fields), values, CHUNK_BYTES))

    def push_chunks(self, *chunks: pb.PushRequest, **fields: Any) -> Any:
        """A good header, then these chunks."""
        return self.call("Push", iter([pb.PushRequest(header=self.header(**fields)), *chunks]))

    def chunk(self, start: int, stop: int, **fields: Any) -> pb.PushRequest:
        """Bytes start to stop of a good payload; `fields` override."""
        data = self.gradient.tobytes()[start:stop]
        return pb.PushRequest(**{"offset_bytes": start, "crc32c": crc32c(data), "data": data, **fields})

    def cut_push(self, payload_bytes: int) -> None:
        """A push that is cancelled once the server has this many of its bytes; its stream never ends."""
        over = threading.Event()
        messages = push_messages(self.header(), self.gradient, CHUNK_BYTES)
        call = self.client.start("Push", until_bytes(messages, payload_bytes, over))
        eventually(lambda: self.staged_bytes() == payload_bytes, f"{payload_bytes} bytes staged")
        call.cancel()
        over.set()

    def staged_bytes(self) -> int:
        """Payload bytes of an unfinished push that the server holds."""

        def read() -> int:
            staged = self.server.host(self.job).shards.staged.get((WORKER, self.epoch))
            return staged.received_bytes if staged else 0

        return self.server.on_loop(read)

    def is_live(self) -> bool:
        """Whether the scene's epoch is live."""
        members = self.server.host(self.job).machine.state.members
        return self.server.on_loop(lambda: members.is_live(WORKER, self.epoch))

    def wait_expired(self) -> None:
        """Stay silent until the lease is over."""
        eventually(lambda: not self.is_live(), "the lease to end")

    def good_step(self) -> None:
        """The server goes on: a good push, under the next seq of the same epoch if that is live, is applied."""
        if not self.is_live():
            self.epoch = self.client.join(self.job, WORKER).epoch
        step = self.version().step
        answer = self.push()
        assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED, answer
        assert (answer.outcome.applied_step, answer.header.step) == (step, step + 1)


def until_bytes(messages: Iterable[Any], payload_bytes: int, over: threading.Event) -> Iterator[Any]:
    """The messages up to that many bytes of data; then the stream stays open until `over`."""
    sent = 0
    for message in messages:
        yield message
        sent += len(message.data)
        if sent >= payload_bytes:
            break
    over.wait(30)


def nothing(_: Scene) -> None:
    """Nothing to arrange."""


@dataclass(frozen=True)
class Row:
    """One bad request and what it comes to: a refusal with `reason`, an outcome, or (cut streams) no answer at all.

    arrange: what happens before, not counted as the request's doing. metadata: part of the ErrorInfo's. consumed:
    whether the push's seq is used up.
    """

    name: str
    send: Callable[[Scene], Any]
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    outcome: tuple[str, str] | None = None
    consumed: bool = False
    arrange: Callable[[Scene], Any] = nothing
    server: str = "roomy"
