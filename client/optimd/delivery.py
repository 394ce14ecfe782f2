"""Getting one push to its outcome through lost replies, restarts and ended leases, without applying it twice.

send ── answered ───────────────► outcome
  │  └─ WAITING ──► ask until DONE; if the lease ends meanwhile, join again: the round may wait for that
  ├─ lost, broken ► ask: DONE, or WAITING, or UNKNOWN: send the same seq again
  └─ not a member ► ask about the old epoch: DONE, or else join again and send under the new epoch
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import OutcomeUnknown, Refused, ServerUnavailable
from optimdpb.v1 import optimd_pb2 as pb

from optimd.encoding import Encoder
from optimd.patience import Patience
from optimd.transport import CallFailed, CallLost, CallThrottled, NoServer, Transport

Float32s = NDArray[np.float32]
Answer = pb.PushResponse | pb.StepResponse | pb.AwaitOutcomeResponse
# With the parameters that came with it, None where none did.
Sent = tuple[Answer, Float32s | None]

WAIT_MARGIN_S = 10.0


class Members(Protocol):
    """What a delivery needs of the membership."""

    @property
    def expired(self) -> bool:
        """Whether the epoch is known not to be live any more."""

    def join(self) -> int:
        """Join under a fresh epoch. Returns it."""


class Delivery:
    """One push. It stays open until its outcome is known.

    `header`: the one last sent. `flat`: the gradient. `encoder`: what wrote it last. `is_free`: nothing that was sent
    can have been taken, now or later: its seq may be used for another gradient.
    """

    def __init__(
        self,
        transport: Transport,
        header: pb.PushHeader,
        flat: Float32s,
        wait_s: float,
        patience: Patience,
        members: Members,
    ) -> None:
        self.header = header
        self.flat = flat
        self.encoder: Encoder | None = None
        self.is_free = True
        self._transport = transport
        self._wait_s = wait_s
        self._patience = patience
        self._members = members
        self._fresh_epoch: int | None = None
        self._maybe_taken = False

    def run(self, send: Callable[[Delivery], Sent]) -> Sent:
        """The answer that holds the outcome. send: sends this once, raises what a Transport raises.

        Raises Refused, ServerUnavailable, OutcomeUnknown.
        """
        moves = 0
        while True:
            was_free, self.is_free = self.is_free, False
            is_over = False
            try:
                answer, parameters = send(self)
                if answer.state == pb.PUSH_STATE_DONE:
                    return answer, parameters
                self._patience.heard()
                self._maybe_taken = True
            except CallThrottled as error:
                self.is_free = was_free
                self._pause(error)
                continue
            except CallFailed as error:
                self._maybe_taken = True
                self._pause(error)
            except Refused as error:
                if error.reason == "PUSH_SUPERSEDED":  # a copy of this very call took its place on the way
                    self._maybe_taken = True
                    self._pause(error)
                elif error.reason in ("LEASE_EXPIRED", "NOT_JOINED"):
                    is_over = True
                    if moves:  # a lease that is shorter than a sending: that does not end by itself
                        self._pause(error)
                else:
                    self.is_free = was_free
                    raise
            resolved = self.ask()
            if resolved is not None:
                return resolved, None
            if is_over or self._fresh_epoch is not None:
                self._move_to_fresh_epoch()
                moves += 1
            self.header.attempt += 1

    def resolve(self) -> pb.AwaitOutcomeResponse | None:
        """Find out, with fresh patience, what became of a push that run() gave up on; None if it was never taken.

        None also where the server remembers no more of it.
        """
        self._patience.heard()
        try:
            return self.ask()
        except Refused as error:
            if error.reason != "SEQ_FORGOTTEN":
                raise
            return None

    def ask(self) -> pb.AwaitOutcomeResponse | None:
        """Wait for the outcome of what was sent; None if it was never taken."""
        header = self.header
        request = pb.AwaitOutcomeRequest(job=header.job, worker=header.worker, epoch=header.epoch, seq=header.seq)
        while True:
            try:
                answer: pb.AwaitOutcomeResponse = self._transport.call(
                    "AwaitOutcome", request, timeout_s=self._wait_s + WAIT_MARGIN_S
                )
            except CallFailed as error:
                self._pause(error)
                continue
            except Refused as error:
                if error.reason == "NOT_JOINED":  # the server does not remember the epoch: it took nothing that lasts
                    self._maybe_taken = False
                    return None
                raise
            if answer.state == pb.PUSH_STATE_DONE:
                return answer
            if answer.state == pb.PUSH_STATE_UNKNOWN:
                self._maybe_taken = False
                return None
            self._patience.heard()
            if self._members.expired:
                self._stay_a_member()

    def _stay_a_member(self) -> None:
        """Join again while the push of the old epoch still waits: its round may need one more live worker to close."""
        try:
            self._fresh_epoch = self._members.join()
        except ServerUnavailable as error:
            what = f"seq {self.header.seq} of epoch {self.header.epoch}"
            raise OutcomeUnknown(f"{error}; {what} may or may not count") from error

    def _move_to_fresh_epoch(self) -> None:
        """What follows goes out under the epoch of now, joining first if there is none yet."""
        epoch = self._members.join() if self._fresh_epoch is None else self._fresh_epoch
        header = pb.PushHeader()
        header.CopyFrom(self.header)
        header.epoch, header.seq = epoch, 1
        self.header = header  # both at once: an interrupt must not find the one without the other
        self._fresh_epoch = None
        self.is_free = True

    def _pause(self, error: Exception) -> None:
        """Before another try. Raises OutcomeUnknown or ServerUnavailable once patience is over."""
        if not isinstance(error, NoServer) and self._patience.wait(delay_of(error), moved=moved(error), why=error):
            return
        if self._maybe_taken:
            what = f"seq {self.header.seq} of epoch {self.header.epoch}"
            raise OutcomeUnknown(f"{self._patience.why}; {what} may or may not count: {error}") from error
        raise ServerUnavailable(f"{self._patience.why}: {error}") from error


def delay_of(error: Exception) -> float | None:
    """How long the server asks to wait before another try, None if it does not say."""
    return error.retry_delay_s if isinstance(error, CallThrottled) else None


def moved(error: Exception) -> bool:
    """Whether many bytes had got through before the call failed."""
    return isinstance(error, CallLost) and error.moved
