"""What comes over the hand-over socket is taken only if it is what was announced; else the worker does without."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from optimd.transport.shared import NotShared, check_reachable, fetch
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import eventually

ELEMENTS = 5000
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
TOKEN = b"t" * 16


def memory(elements: int = ELEMENTS, seals: int = SEALS) -> int:
    """A memfd."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, elements * 4)
    os.pwrite(descriptor, np.arange(elements, dtype=np.float32).tobytes(), 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def offer(segments: int = 3, payload_bytes: int = ELEMENTS * 4) -> pb.OpenSharedMemoryResponse:
    kinds = [pb.SEGMENT_GRADIENT, pb.SEGMENT_GRADIENT, pb.SEGMENT_PARAMETERS, pb.SEGMENT_COPY][:segments]
    return pb.OpenSharedMemoryResponse(token=TOKEN, segments=kinds, payload_bytes=payload_bytes)


def at(name: str, announced: pb.OpenSharedMemoryResponse) -> pb.OpenSharedMemoryResponse:
    """With the name of the socket."""
    announced.socket = name
    return announced


Answer = Callable[[socket.socket], None]


class FakeServer:
    """Answers one connection."""

    def __init__(self, answer: Answer) -> None:
        self.name = f"optimd-test-{secrets.token_hex(8)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0{self.name}")
        self._listener.listen(1)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self._answer(connection)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


def sends(*make: Callable[[], int]) -> Answer:
    """Takes the token and sends such descriptors."""

    def answer(connection: socket.socket) -> None:
        assert connection.recv(16) == TOKEN
        descriptors = [each() for each in make]
        socket.send_fds(connection, [b"\0"], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    return answer


def pipe_end() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def plain_file() -> int:
    descriptor = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(descriptor, ELEMENTS * 4)
    return descriptor


@pytest.fixture
def fake() -> Iterator[Callable[[Answer], str]]:
    servers: list[FakeServer] = []

    def start(answer: Answer) -> str:
        servers.append(FakeServer(answer))
        return servers[-1].name

    yield start
    for server in servers:
        server.close()


def open_descriptors() -> int:
    """Of memory."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # another thread has closed it meanwhile
            count += "memfd:test" in os.readlink(path)
    return count


def test_good_memory_is_mapped(fake: Callable[[Answer], str]) -> None:
    shared = fetch(at(fake(sends(memory, memory, memory)), offer()), ELEMENTS)
    assert [gradient.size for gradient in shared.gradients] == [ELEMENTS, ELEMENTS]
    assert shared.parameters[17] == 17.0
    shared.gradients[0][:] = 3.0
    with pytest.raises(ValueError, match="read-only"):
        shared.parameters[0] = 1.0
    eventually(
        lambda: open_descriptors() == 4, "the fake server's to be closed: each mapping has its own, two of parameters"
    )
    del shared
    assert open_descriptors() == 0


BAD: list[tuple[str, Answer, pb.OpenSharedMemoryResponse, str]] = [
    ("too small", sends(memory, memory, lambda: memory(ELEMENTS - 1)), offer(), "expected memory of at least"),
    ("not sealed", sends(memory, lambda: memory(seals=0), memory), offer(), "sealed with 0x0"),
    ("may shrink", sends(lambda: memory(seals=fcntl.F_SEAL_GROW), memory, memory), offer(), "sealed with"),
    ("a pipe", sends(memory, pipe_end, memory), offer(), "a descriptor that is none"),
    ("a file", sends(plain_file, memory, memory), offer(), "a descriptor that is none"),
    ("too few", sends(memory, memory), offer(), "expected 3 descriptors, got 2"),
    ("none", lambda connection: connection.sendall(b"\0"), offer(), "expected 3 descriptors, got 0|broke"),
    ("closed early", lambda connection: None, offer(), "expected 3 descriptors, got 0|broke"),
    ("another size announced", sends(memory, memory, memory), offer(payload_bytes=8), "expected memory for 5000"),
    ("no parameters", sends(memory, memory), offer(segments=2), "expected gradients and parameters"),
]


@pytest.mark.parametrize(("answer", "announced", "why"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_anything_else_is_not(
    fake: Callable[[Answer], str], answer: Answer, announced: pb.OpenSharedMemoryResponse, why: str
) -> None:
    name = fake(answer)
    with pytest.raises(NotShared, match=why):
        fetch(at(name, announced), ELEMENTS)
    eventually(lambda: open_descriptors() == 0, "all to be closed")


def test_a_server_elsewhere_cannot_be_reached() -> None:
    with pytest.raises(NotShared, match="not on this machine"):
        check_reachable("optimd-nobody-listens-here")
