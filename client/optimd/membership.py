"""Being a member of a job: the epoch, its lease, and the memory that the server shares with it."""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import OptimdError
from optimdpb.v1 import optimd_pb2 as pb

from optimd.claim import Claim
from optimd.lease import LeaseKeeper
from optimd.session import Session
from optimd.transport import CallFailed, CallLost, NotShared, SharedMemory
from optimd.words import Words

LEAVE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Member:
    """What one Join gave. `memory`: shared with the server for this epoch, None where there is none."""

    joined: pb.JoinResponse
    keeper: LeaseKeeper
    memory: SharedMemory | None


class Membership:
    """`member`: None before a Join, and while one is on its way: nobody knows then which epoch is the last. Join again.

    `memory_in_use`: a call was sent in whose course the server writes to the shared parameters, and has not been
    answered: it may write yet.
    """

    def __init__(self, session: Session, worker: str, claim: Claim) -> None:
        if not isinstance(worker, str):
            raise TypeError(f"expected the worker's name as a string, got {worker!r}")
        self.worker = worker
        self.member: Member | None = None
        self.next_seq = 1
        self.memory_in_use = False
        self._memory_lost = False
        self._session = session
        self._claim = claim
        self._keeper: LeaseKeeper | None = None
        # The token of an offer that was tried in vain; that of no offer is empty.
        self._no_calls = b""

    @property
    def epoch(self) -> int:
        """Of now; 0 for none."""
        return 0 if self.member is None else self.member.joined.epoch

    @property
    def header(self) -> pb.Header:
        """Where the job was at the Join."""
        assert self.member is not None
        return self.member.joined.header

    @property
    def memory(self) -> SharedMemory | None:
        """Shared with the server, None where there is none."""
        return None if self.member is None else self.member.memory

    @property
    def readable_memory(self) -> SharedMemory | None:
        """The same, where no call of before may write to the parameters in it."""
        return None if self.memory_in_use else self.memory

    @property
    def expired(self) -> bool:
        """Whether a heartbeat was refused because the epoch is not live any more."""
        return self._keeper is not None and self._keeper.expired

    @property
    def surely_live(self) -> bool:
        """Whether the lease cannot have ended by now, whatever held this process up."""
        member = self.member
        if member is None or member.keeper.expired:
            return False
        return self._session.surroundings.now_s() - member.keeper.renewed_s < member.joined.lease_ms / 1000

    def join(self) -> int:
        """Join under a fresh epoch, keep its lease, share memory if that is possible. Returns the epoch.

        Raises Refused (JOB_MISMATCH: another job has taken this one's name), ServerUnavailable.
        """
        self.member = None
        self.stop()
        session = self._session
        joined, sent_s = session.join(self.worker)
        session.note_limits(joined.limits)
        request = pb.HeartbeatRequest(job=session.job, worker=self.worker, epoch=joined.epoch)
        claim = self._claim
        look = partial(_look, session.words, claim)  # nothing that would close a cycle: its memory goes with this
        self._keeper = keeper = LeaseKeeper(
            session.transport, session.surroundings, request, joined, sent_s, claim.idle_s, look
        )
        keeper.start()
        session.transport.on_new_link = weakref.WeakMethod(keeper.restart)
        self._no_calls = b""
        memory = self._share(keeper, joined, joined.shared_memory.socket)
        self._open_calls(keeper)
        self.next_seq = 1
        self.memory_in_use = self._memory_lost = False
        self.member = Member(joined, keeper, memory)
        return self.epoch

    def prepare(self) -> None:
        """Before something is sent, nothing of before is open: make good what was lost on the way. Joins if need be."""
        member = self.member
        if member is None:
            self.join()
            return
        if self._memory_lost or self.memory_in_use:
            # Who has had memory of this server is on its machine; started again, it has another socket.
            memory = self._share(member.keeper, member.joined, None)
            self.member = replace(member, memory=memory)
            self.memory_in_use = self._memory_lost = False
        self._open_calls(member.keeper)

    def lose_memory(self) -> None:
        """The server does not know it any more."""
        self._memory_lost = True
        if self.member is not None:
            self.member = replace(self.member, memory=None)

    def shared_buffer(self, flat: NDArray[np.float32]) -> int:
        """The number by which the server knows this vector, 0 if it does not."""
        memory = self.memory
        if memory is None:
            return 0
        return next((number for number, own in enumerate(memory.gradients, 1) if own is flat), 0)

    def leave(self, *, failed: bool = False, for_good: bool = False) -> None:
        """End it; harmless without one. Does not insist on an answer: the lease ends by itself.

        failed: with work left. for_good: a thread that is in a step must not join again behind it.
        """
        if for_good:
            self._claim.close()
            self._session.close()
        self.member = None
        keeper = self._keeper
        if keeper is None:
            return
        keeper.stop()
        request = pb.LeaveRequest(job=self._session.job, worker=self.worker, epoch=keeper.epoch, failed=failed)
        with contextlib.suppress(CallFailed, OptimdError):
            self._session.transport.call("Leave", request, timeout_s=LEAVE_TIMEOUT_S)
        self._keeper = None

    def stop(self) -> None:
        """Renew the lease no more."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None

    def abandon(self) -> None:
        """See LeaseKeeper.abandon."""
        if self._keeper is not None:
            self._keeper.abandon()

    def _open_calls(self, keeper: LeaseKeeper) -> None:
        """Make steps over the server's unix socket, if it has one that can be reached from here."""
        transport = self._session.transport
        if transport.is_local or keeper.local_calls.token == self._no_calls:
            return
        offer = keeper.local_calls
        try:
            transport.open_local(offer)
        except CallLost:
            self._no_calls = offer.token
        keeper.tell_calls(transport.is_local)

    def _share(self, keeper: LeaseKeeper, joined: pb.JoinResponse, socket: str | None) -> SharedMemory | None:
        """Ask for memory for this epoch; without it payloads travel in messages. socket: to be reached before."""
        session = self._session
        request = pb.OpenSharedMemoryRequest(job=session.job, worker=self.worker, epoch=joined.epoch)
        memory, why_not = None, ""
        try:
            if socket == "":
                raise NotShared(joined.shared_memory.detail or "the server offers none")
            memory = session.transport.share_memory(request, socket, session.layout.elements)
        except NotShared as why:
            why_not = str(why)
        keeper.tell_memory(memory is not None, why_not)
        keeper.tell_calls(session.transport.is_local)
        return memory


def _look(words: Words, claim: Claim, timeout_s: float) -> None:
    words.look(claim.inside_s(), timeout_s)
