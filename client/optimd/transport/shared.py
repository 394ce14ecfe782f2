"""Memory shared with a server on this machine: fetched, checked and mapped.

What comes is taken only if it is what was announced: memory that cannot shrink under a reader, of the announced size.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optimdpb.v1 import optimd_pb2 as pb

from optimd.window import Window, window_over

Float32s = NDArray[np.float32]

CONNECT_S_MAX = 5.0
KNOCK_S = 0.01
DESCRIPTORS_MAX = 8
_MAP_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
# Of linux/fcntl.h: Python has them there alone, and the client is imported elsewhere, too.
_GET_SEALS = 1034
_SEALS = 0x2 | 0x4


class NotShared(Exception):
    """There is no shared memory between this worker and its server; the message says why. Nothing is lost by it."""


@dataclass(frozen=True)
class SharedMemory:
    """What one epoch has: two vectors for gradients, and the parameters, which are only to be read.

    `window`: what of the parameters is handed out; None where the system allows none.
    """

    gradients: tuple[Float32s, ...]
    parameters: Float32s
    window: Window | None


def check_reachable(name: str) -> None:
    """Raises NotShared unless the server's socket can be reached from here: only then it pays to ask for memory."""
    _connect(name).close()


def fetch(offer: pb.OpenSharedMemoryResponse, elements: int) -> SharedMemory:
    """Take over and map what a server has made for this worker. Raises NotShared."""
    with _connect(offer.socket) as connection:
        try:
            connection.sendall(offer.token)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, DESCRIPTORS_MAX)
        except OSError as error:
            raise NotShared(f"the hand-over broke: {error}") from error
    try:
        return _mapped(descriptors, list(offer.segments), offer.payload_bytes, elements)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def connect(name: str) -> socket.socket:
    """A connection to an abstract unix socket. Raises OSError, in words for the user."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_S_MAX)
        _knock(connection, f"\0{name}")
    except OSError as error:
        connection.close()
        message = f"the server is not on this machine, or in another network namespace: {error}"
        raise ConnectionError(message) from error
    return connection


def _knock(connection: socket.socket, address: str) -> None:
    """Connect; many may come at once, and a unix socket whose queue is full says so at once."""
    until_s = time.monotonic() + CONNECT_S_MAX
    while True:
        try:
            connection.connect(address)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise
            time.sleep(KNOCK_S)
        else:
            return


def _connect(name: str) -> socket.socket:
    try:
        return connect(name)
    except OSError as error:
        raise NotShared(str(error)) from error


def _mapped(descriptors: Sequence[int], segments: Sequence[int], payload_bytes: int, elements: int) -> SharedMemory:
    if len(descriptors) != len(segments):
        raise NotShared(f"expected {len(segments)} descriptors, got {len(descriptors)}")
    if payload_bytes != elements * 4:
        raise NotShared(f"expected memory for {elements} parameters, got {payload_bytes} bytes")
    gradients, parameters, window = [], None, None
    for descriptor, segment in zip(descriptors, segments, strict=True):
        values = _map(descriptor, payload_bytes, writable=segment == pb.SEGMENT_GRADIENT)
        if segment == pb.SEGMENT_GRADIENT:
            gradients.append(values)
        else:
            parameters, window = values, window_over(descriptor, values)
    if not gradients or parameters is None:
        raise NotShared(f"expected gradients and parameters, got segments {segments}")
    return SharedMemory(tuple(gradients), parameters, window)


def _map(descriptor: int, payload_bytes: int, *, writable: bool) -> Float32s:
    """The vector in a memfd. Raises NotShared."""
    try:
        size_bytes = os.fstat(descriptor).st_size
        seals = fcntl.fcntl(descriptor, _GET_SEALS)
        if size_bytes < payload_bytes or seals & _SEALS != _SEALS:
            expected = f"at least {payload_bytes} bytes sealed with {_SEALS:#x}"
            raise NotShared(f"expected memory of {expected}, got {size_bytes} bytes sealed with {seals:#x}")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapped = mmap.mmap(descriptor, payload_bytes, mmap.MAP_SHARED | _MAP_POPULATE, protection)
    except OSError as error:
        raise NotShared(f"expected memory to map, got a descriptor that is none: {error}") from error
    data: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
    return data.view(np.float32)
