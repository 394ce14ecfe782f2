"""What a worker needs of a transport, and the ways a call can end without an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd.encoding import Payload
from optimd.transport.shared import SharedMemory

Float32s = NDArray[np.float32]


class CallFailed(Exception):
    """A call ended without an answer. What the server did is unknown."""


class CallLost(CallFailed):
    """Server or reply could not be reached: worth another try. `moved`: many bytes of its payload had got through."""

    moved = False


class NoServer(CallLost):
    """What answers at the address is for certain no server of optimd, or the connection was closed here: not worth
    another try.
    """


class CallBroken(CallFailed):
    """The server, or something on the way, failed at it: worth a few more tries. `refusal` says so to users."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class CallThrottled(CallFailed):
    """The server is full and did nothing; try again after retry_delay_s."""

    def __init__(self, message: str, retry_delay_s: float) -> None:
        super().__init__(message)
        self.retry_delay_s = retry_delay_s


class Transport(Protocol):
    """Calls of the contract. Each raises Refused, which consumed no seq, or a CallFailed; ForkedWorker in a fork.

    timeout_s: how long a unary call may take, or a stream stand still. `on_new_link`: gives what to call when a
    connection was given up for a new one.
    """

    on_new_link: Callable[[], Callable[[], None] | None]

    def call(self, method: str, request: Message, timeout_s: float) -> Any:
        """A unary call by its rpc name."""

    def upload(self, header: pb.UploadHeader, flat: Float32s, timeout_s: float) -> pb.UploadParametersResponse:
        """UploadParameters with the vector in chunks."""

    def share_memory(self, request: pb.OpenSharedMemoryRequest, socket: str | None, elements: int) -> SharedMemory:
        """Memory shared with the server. socket: where it must be reachable before it is asked; None if it was.

        Raises NotShared.
        """

    @property
    def moving(self) -> str:
        """How far the transfer of now has come, in words; "" where none is under way."""

    @property
    def is_local(self) -> bool:
        """Whether steps go over the server's unix socket."""

    def open_local(self, offer: pb.LocalCalls) -> None:
        """Let them go there from now on, until the connection breaks. Raises CallLost if there is none to be had."""

    def push(self, header: pb.PushHeader, payload: Payload, timeout_s: float) -> pb.PushResponse:
        """Push with the payload in chunks, or without it where header.shared_buffer names the vector."""

    def step(
        self, header: pb.PushHeader, payload: Payload, timeout_s: float
    ) -> tuple[pb.StepResponse, Float32s | None]:
        """Step; the parameters are in memory that is not written to again, None where the answer holds none."""

    def pull(self, request: pb.PullRequest, flat: Float32s, timeout_s: float) -> tuple[pb.Header, pb.ParametersHeader]:
        """Pull into the given vector, which stays as it is where the answer has another location, or no payload."""

    def close(self) -> None:
        """End every call and connection; later calls raise CallLost."""
