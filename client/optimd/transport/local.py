"""Unary calls over the unix socket of a server on this machine; see LocalCalls in the contract."""

from __future__ import annotations

import contextlib
import os
import socket

from optimdpb import local
from optimdpb.v1 import optimd_pb2 as pb

from optimd.transport.base import CallLost
from optimd.transport.failures import failure_of_status
from optimd.transport.shared import connect

RECEIVE_BYTES = 1 << 16


class LocalConnection:
    """One call after the other; belongs to the process that made it.

    `is_free`: it can take a call. Not while it has one, nor ever after one that did not end with its whole answer: that
    would be taken for the answer to the next.
    """

    def __init__(self, offer: pb.LocalCalls) -> None:
        """Raises CallLost where the server is not on this machine, or takes no more connections."""
        self._pid = os.getpid()
        self.closed = self._is_busy = False
        try:
            self._socket = connect(offer.socket)
        except OSError as error:
            raise CallLost(str(error)) from error
        try:
            self._socket.sendall(offer.token)
            taken = self._socket.recv(1)
        except OSError as error:
            self.close()
            raise CallLost(f"the server's unix socket: {error}") from error
        if not taken:
            self.close()
            raise CallLost("the server takes no more connections on its unix socket")

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """The response. timeout_s: how long each way may be silent. Raises Refused, CallLost, CallThrottled."""
        self._is_busy = True  # until the whole answer is there, whatever cuts this off
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(b"".join(local.request(method, request)))
            answered, message = local.response_of(self._receive())
        except OSError as error:
            self.close()
            raise CallLost(f"{method} over the unix socket: {error}") from error
        except BaseException:
            self.close()
            raise
        self._is_busy = False
        if not answered:
            raise failure_of_status(message)
        return message

    @property
    def is_free(self) -> bool:
        """See above."""
        return not self.closed and not self._is_busy

    def close(self) -> None:
        """End it; harmless when closed. In a forked child the parent's connection goes on."""
        self.closed = True
        if self._pid == os.getpid():  # to the server it ends now, whoever has inherited the descriptor
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive(self) -> bytearray:
        received = bytearray(self._some())
        while (size := local.size_of(received)) is None or len(received) < local.SIZE_BYTES + size:
            received += self._some()
        return received

    def _some(self) -> bytes:
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server has closed it")
        return data
