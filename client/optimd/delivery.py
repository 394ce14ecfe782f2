"""Getting one push to its outcome through lost replies, restarts and ended leases, without applying it twice.

send ── answered ───────────────► outcome
  │  └─ WAITING ──► ask until DONE; if the lease ends meanwhile, join again: the round may wait for that
  ├─ lost ────────► ask: DONE, or WAITING, or UNKNOWN: send the same seq again
  └─ not a member ► ask about the old epoch: DONE, or else join again and send under the new epoch
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import LeaseExpired, OutcomeUnknown, Refused, ServerUnavailable
from optimdpb.v1 import optimd_pb2 as pb

from optimd.patience import Patience
from optimd.transport import CallLost, CallThrottled, Transport

Float32s = NDArray[np.float32]
Answer = pb.PushResponse | pb.StepResponse | pb.AwaitOutcomeResponse

WAIT_MARGIN_S = 10.0


# Sends the payload once under a header; raises what a Transport raises.
Send = Callable[[pb.PushHeader], Answer]


class Delivery:
    """One push. `header` is the one last sent; it stays open until its outcome is known."""

    def __init__(
        self,
        transport: Transport,
        header: pb.PushHeader,
        wait_s: float,
        patience: Patience,
        rejoin: Callable[[], int],
        expired: Callable[[], bool],
    ) -> None:
        self.header = header
        self._transport = transport
        self._wait_s = wait_s
        self._patience = patience
        self._rejoin = rejoin
        self._expired = expired
        self._fresh_epoch: int | None = None
        self._maybe_taken = False

    def run(self, send: Send) -> Answer:
        """The answer that holds the outcome. Raises Refused, ServerUnavailable, OutcomeUnknown."""
        while True:
            try:
                answer = send(self.header)
                self._patience.heard()
                if answer.state == pb.PUSH_STATE_DONE:
                    return answer
                self._maybe_taken = True
            except CallThrottled as error:
                self._pause(error, error.retry_delay_s)
                continue
            except CallLost as error:
                self._maybe_taken = True
                self._pause(error)
            except Refused as error:
                if error.reason == "PUSH_SUPERSEDED":  # a copy of this very call took its place on the way
                    self._maybe_taken = True
                elif _needs_join(error):
                    return self._run_again_as_member(send)
                else:
                    raise
            resolved = self.ask()
            if resolved is not None:
                return resolved
            if self._fresh_epoch is not None:
                self._move_to_fresh_epoch()
            self.header.attempt += 1

    def resolve(self) -> pb.AwaitOutcomeResponse | None:
        """Find out, with fresh patience, what became of a push that run() gave up on; None if it was never taken."""
        self._patience.heard()
        return self.ask()

    def ask(self) -> pb.AwaitOutcomeResponse | None:
        """Wait for the outcome of what was sent; None if it was never taken."""
        header = self.header
        request = pb.AwaitOutcomeRequest(job=header.job, worker=header.worker, epoch=header.epoch, seq=header.seq)
        while True:
            try:
                answer: pb.AwaitOutcomeResponse = self._transport.call(
                    "AwaitOutcome", request, timeout_s=self._wait_s + WAIT_MARGIN_S
                )
            except CallThrottled as error:
                self._pause(error, error.retry_delay_s)
                continue
            except CallLost as error:
                self._pause(error)
                continue
            except Refused as error:
                if error.reason == "NOT_JOINED":  # the server does not remember the epoch: it took nothing that lasts
                    self._maybe_taken = False
                    return None
                raise
            self._patience.heard()
            if answer.state == pb.PUSH_STATE_DONE:
                return answer
            if answer.state == pb.PUSH_STATE_UNKNOWN:
                self._maybe_taken = False
                return None
            if self._expired():
                self._stay_a_member()

    def _stay_a_member(self) -> None:
        """Join again while the push of the old epoch still waits: its round may need one more live worker to close."""
        try:
            self._fresh_epoch = self._rejoin()
        except ServerUnavailable as error:
            what = f"seq {self.header.seq} of epoch {self.header.epoch}"
            raise OutcomeUnknown(f"{error}; {what} may or may not count") from error

    def _move_to_fresh_epoch(self) -> None:
        """What follows goes out under the epoch of now, joining first if there is none yet."""
        self.header.epoch = self._rejoin() if self._fresh_epoch is None else self._fresh_epoch
        self.header.seq = 1
        self._fresh_epoch = None

    def _run_again_as_member(self, send: Send) -> Answer:
        """The epoch is over: what it committed counts; else the gradient goes out under a new one."""
        resolved = self.ask()
        if resolved is not None:
            return resolved
        self._move_to_fresh_epoch()
        self.header.attempt += 1
        return self.run(send)

    def _pause(self, error: Exception, delay_s: float | None = None) -> None:
        if self._patience.wait(delay_s):
            return
        if self._maybe_taken:
            what = f"seq {self.header.seq} of epoch {self.header.epoch}"
            raise OutcomeUnknown(f"the server cannot be reached; {what} may or may not count: {error}") from error
        raise ServerUnavailable(f"the server cannot be reached: {error}") from error


def _needs_join(error: Refused) -> bool:
    return isinstance(error, LeaseExpired) or error.reason == "NOT_JOINED"
