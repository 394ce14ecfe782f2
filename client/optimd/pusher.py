"""Sending gradients one after the other, each exactly once, whatever cuts a call off.

The rule: an exception at any point leaves a state from which the next call finds out what the server did before it
sends anything. So the open delivery is noted before its first byte goes out and forgotten last, behind everything that
follows from its outcome; and all of that may be done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from optimdpb.errors import EpochSuperseded, OptimdError, Refused, WorkerSetAside
from optimdpb.v1 import optimd_pb2 as pb

from optimd import tensors
from optimd.buffers import GradientBuffers, Views
from optimd.delivery import Answer, Delivery, Sent
from optimd.encoding import Encoder, Float32, Payload, encoder_of
from optimd.membership import Membership
from optimd.puller import Puller
from optimd.session import Session
from optimd.transport import CallThrottled

Arrays = Mapping[str, NDArray[Any]]


class Pusher:
    """The pushes of one worker: its buffers, what they are encoded with, and the one that is open.

    `casts`: whether gradients may be of any numbers that float32 can be made of.
    """

    def __init__(self, session: Session, membership: Membership, puller: Puller, dtype: str) -> None:
        self.casts = False
        self._session = session
        self._membership = membership
        self._puller = puller
        self._dtype = dtype
        self._encoder: tuple[int, Encoder] | None = None
        self._made: GradientBuffers | None = None
        self._open: Delivery | None = None
        self._ended_by: EpochSuperseded | WorkerSetAside | None = None

    def free_views(self) -> Views:
        """Where the next gradient may be computed. Raises what ended this worker, OutcomeUnknown, and as Membership."""
        self._check_not_ended()
        if self._open is None:
            self._membership.prepare()
            self._buffers.release()
        elif self._membership.member is None:
            self._membership.join()
        return self._buffers.views()

    def push(
        self, gradients: Arrays, base: pb.Version | None, weight: float, loss: float | None, *, pull: bool
    ) -> Sent:
        """One gradient to its outcome, settling first what is open. pull: with the parameters, if that is one call.

        Raises InvalidGradient, ValueError and RuntimeError before anything is sent; see Worker.push().
        """
        self._check_not_ended()
        weight, loss = float(weight), None if loss is None else _number(loss)
        layout = self._session.layout
        whole = self._made.whole(gradients) if self._made is not None and self._made.layout is layout else None
        if whole is None:
            gradients = tensors.gradients_of(layout, gradients, cast=self.casts)
        if base is None:
            message = (
                "expected parameters to be pulled before a gradient is pushed, so that it is known which ones it was"
            )
            raise ValueError(f"{message} taken at: call pull(). Only who created the job has them without")
        self._settle_open()
        self._membership.prepare()
        buffers = self._buffers
        buffers.release()
        return self._deliver(self._delivery(buffers.put(gradients, whole), base, weight, loss), pull=pull)

    def _check_not_ended(self) -> None:
        if self._ended_by is not None:
            raise _again(self._ended_by)

    def _settle_open(self) -> None:
        """Find out about the push that is open. Its round may wait for one more worker: be a member while asking."""
        delivery, membership = self._open, self._membership
        if delivery is None:
            return
        if membership.member is None:
            membership.join()
        answer = delivery.resolve()
        if answer is None and delivery.header.epoch == membership.epoch:
            membership.join()  # bytes of it may still be on their way: a fresh epoch fences them from what follows
        self._settle(delivery, answer, is_clean=False)

    def _settle(self, delivery: Delivery, answer: Answer | None, *, is_clean: bool) -> None:
        """What follows from an outcome, or from there being none for ever."""
        if delivery.encoder is not None:
            applied = answer is not None and answer.outcome.status == pb.OUTCOME_STATUS_APPLIED
            delivery.encoder.settled(applied, is_clean=is_clean)
        if answer is not None and delivery.header.epoch == self._membership.epoch:
            self._membership.next_seq = delivery.header.seq + 1
        if self._made is not None:
            self._made.release()
        self._open = None

    def _delivery(self, flat: NDArray[Any], base: pb.Version, weight: float, loss: float | None) -> Delivery:
        session, membership = self._session, self._membership
        header = pb.PushHeader(
            job=session.job,
            worker=membership.worker,
            epoch=membership.epoch,
            seq=membership.next_seq,
            base_version=base,
            weight=weight,
            loss=loss,
            attempt=1,
            layout_digest=session.layout.digest,
        )
        return Delivery(session.transport, header, flat, session.wait_s, session.patience(), membership)

    def _deliver(self, delivery: Delivery, *, pull: bool) -> Sent:
        self._open = delivery  # until proven otherwise, also through an interrupt
        try:
            answer, parameters = delivery.run(lambda delivery: self._send(delivery, pull=pull))
        except (EpochSuperseded, WorkerSetAside) as error:
            self._ended_by = _again(error)
            raise
        except OptimdError:
            if delivery.is_free:
                self._settle(delivery, None, is_clean=True)
            raise
        self._settle(delivery, answer, is_clean=True)
        return answer, parameters

    def _send(self, delivery: Delivery, *, pull: bool) -> Sent:
        """Send the gradient once, in place where the server can read it; a server that started anew cannot."""
        # The worker may have joined anew since: its gradient belongs into the memory of the epoch that sends it.
        delivery.flat = self._buffers.adopt(delivery.flat)
        delivery.header.shared_buffer = self._membership.shared_buffer(delivery.flat)
        try:
            return self._send_once(delivery, pull=pull)
        except Refused as error:
            if error.reason != "SHARED_MEMORY_GONE":
                raise
            self._membership.lose_memory()
            delivery.header.shared_buffer = 0
            return self._send_once(delivery, pull=pull)

    def _send_once(self, delivery: Delivery, *, pull: bool) -> Sent:
        session, membership, header, flat = self._session, self._membership, delivery.header, delivery.flat
        encoder = Float32() if header.shared_buffer else self._encoder_of(flat.size)
        payload = Payload(flat, encoder)
        delivery.encoder = encoder
        header.encoding, header.payload_bytes = payload.encoding, payload.nbytes
        in_one = header.shared_buffer or (flat.nbytes <= session.step_bytes_max and self._puller.takes_float32)
        if not pull or not in_one:
            return session.transport.push(header, payload, session.answer_s), None
        memory = membership.memory
        membership.memory_in_use = memory is not None
        try:
            answer, parameters = session.transport.step(header, payload, session.answer_s)
        except (CallThrottled, Refused):
            membership.memory_in_use = False
            raise
        membership.memory_in_use = False
        if answer.parameters.location in (pb.LOCATION_SHARED, pb.LOCATION_COPY):
            parameters = None if memory is None else memory.parameters
        return answer, parameters

    def _encoder_of(self, elements: int) -> Encoder:
        if self._encoder is None or self._encoder[0] != elements:
            self._encoder = elements, encoder_of(self._dtype, elements)
        return self._encoder[1]

    @property
    def _buffers(self) -> GradientBuffers:
        """Of the layout and the shared memory of now."""
        layout, memory = self._session.layout, self._membership.memory
        gradients = None if memory is None else memory.gradients
        if self._made is None or not self._made.are_of(layout, gradients):
            self._made = GradientBuffers(layout, gradients)
        return self._made


def _number(loss: Any) -> float:
    """A loss may be an array of one element, or a tensor that asks not to be converted while it has a graph."""
    return float(loss.detach() if hasattr(loss, "detach") else loss)


def _again(error: EpochSuperseded | WorkerSetAside) -> EpochSuperseded | WorkerSetAside:
    """The same without its traceback, which would hold on to the worker."""
    again = Refused.from_reason(error.reason, str(error), error.metadata)
    assert isinstance(again, EpochSuperseded | WorkerSetAside)
    return again
