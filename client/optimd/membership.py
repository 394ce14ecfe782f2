"""Being a member of a job: the epoch, its lease, and the memory that the server shares with it."""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import OptimdError
from optimdpb.v1 import optimd_pb2 as pb

from optimd.lease import LeaseKeeper
from optimd.session import Session
from optimd.transport import CallFailed, CallLost, NotShared, SharedMemory

LEAVE_TIMEOUT_S = 2.0


class Membership:
    """`epoch`: 0 before the first join. `memory`: shared with the server for this epoch, None where there is none."""

    def __init__(self, session: Session, worker: str) -> None:
        self.worker = worker
        self.epoch = 0
        self.next_seq = 1
        self.memory: SharedMemory | None = None
        self.memory_lost = False
        self._session = session
        self._joined: pb.JoinResponse | None = None
        self._keeper: LeaseKeeper | None = None
        self._why_not = ""
        # The token of an offer that was tried in vain; that of no offer is empty.
        self._no_calls = b""

    @property
    def expired(self) -> bool:
        """Whether a heartbeat was refused because the epoch is not live any more."""
        return self._keeper is not None and self._keeper.expired

    @property
    def surely_live(self) -> bool:
        """Whether the lease cannot have ended by now, whatever held this process up."""
        if self._keeper is None or self._joined is None or self.expired:
            return False
        return self._session.surroundings.now_s() - self._keeper.renewed_s < self._joined.lease_ms / 1000

    def join(self) -> int:
        """Join under a fresh epoch, keep its lease, share memory if that is possible. Returns the epoch."""
        self.stop()
        session = self._session
        request = pb.JoinRequest(job=session.job, worker=self.worker, layout_digest=session.layout.digest)
        joined = session.call("Join", request)
        session.note_limits(joined.limits)
        self.epoch, self.next_seq, self._joined = joined.epoch, 1, joined
        self._keeper = LeaseKeeper(session.transport, session.surroundings, session.job, self.worker, joined)
        self._no_calls = b""
        self.share_memory()
        return self.epoch

    def open_calls(self) -> None:
        """Make steps over the server's unix socket, if it has one that can be reached from here."""
        keeper, transport = self._keeper, self._session.transport
        if keeper is None or transport.is_local or keeper.local_calls.token == self._no_calls:
            return
        offer = keeper.local_calls
        try:
            transport.open_local(offer)
        except CallLost:
            self._no_calls = offer.token
        self._tell()

    def share_memory(self) -> None:
        """Ask for memory for this epoch; without it payloads travel in messages."""
        assert self._joined is not None and self._keeper is not None  # noqa: PT018
        session, offer = self._session, self._joined.shared_memory
        # Who has had memory of this server is on its machine; started again, it has another socket.
        socket = None if self.memory_lost else offer.socket
        request = pb.OpenSharedMemoryRequest(job=session.job, worker=self.worker, epoch=self.epoch)
        self.memory, self.memory_lost = None, False
        try:
            if socket == "":
                raise NotShared(offer.detail or "the server offers none")
            self.memory = session.transport.share_memory(request, socket, session.layout.elements)
        except NotShared as why:
            self._why_not = str(why)
        self._tell()
        self.open_calls()

    def _tell(self) -> None:
        """Let the server know how payloads travel."""
        assert self._keeper is not None
        is_local = self._session.transport.is_local
        if self.memory is not None:
            calls = "" if is_local else ", calls by gRPC"
            self._keeper.tell(pb.TRANSPORT_SHARED_MEMORY, f"on the server's own machine{calls}")
        else:
            self._keeper.tell(pb.TRANSPORT_UNIX_SOCKET if is_local else pb.TRANSPORT_GRPC, self._why_not)

    def lose_memory(self) -> None:
        """The server does not know it any more."""
        self.memory, self.memory_lost = None, True

    def shared_buffer(self, flat: NDArray[np.float32]) -> int:
        """The number by which the server knows this vector, 0 if it does not."""
        gradients = self.memory.gradients if self.memory is not None else ()
        return next((number for number, own in enumerate(gradients, 1) if own is flat), 0)

    def leave(self) -> None:
        """End it; harmless without one. Does not insist on an answer: the lease ends by itself."""
        if self._keeper is None:
            return
        self.stop()
        request = pb.LeaveRequest(job=self._session.job, worker=self.worker, epoch=self.epoch)
        with contextlib.suppress(CallFailed, OptimdError):
            self._session.transport.call("Leave", request, timeout_s=LEAVE_TIMEOUT_S)

    def stop(self) -> None:
        """Renew the lease no more."""
        self.memory_lost = False
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
