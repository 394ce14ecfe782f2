"""How calls reach the server. The only I/O of the client."""

from optimd.transport.base import CallBroken, CallFailed, CallLost, CallThrottled, NoServer, Transport
from optimd.transport.grpc import GrpcTransport
from optimd.transport.shared import NotShared, SharedMemory

__all__ = [
    "CallBroken",
    "CallFailed",
    "CallLost",
    "CallThrottled",
    "GrpcTransport",
    "NoServer",
    "NotShared",
    "SharedMemory",
    "Transport",
]
