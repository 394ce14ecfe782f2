"""Calls about one job that are repeated until the server answers, and the limits that it has told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from optimdpb.codec import layout_from_proto
from optimdpb.errors import Refused, ServerUnavailable
from optimdpb.specs import Layout
from optimdpb.v1 import optimd_pb2 as pb

from optimd import tensors
from optimd.delivery import WAIT_MARGIN_S, delay_of, moved
from optimd.patience import Patience
from optimd.surroundings import Surroundings
from optimd.transport import CallBroken, CallFailed, NoServer, Transport
from optimd.words import Words

# Until the server has said how long it holds a waiting call.
WAIT_S_ASSUMED = 20.0
# A server that fails at a call will most likely fail at it again.
BROKEN_TRIES = 3


class Session:
    """`wait_s`: how long the server holds a waiting call. `step_bytes_max`: the largest model for Step, 0: unknown."""

    def __init__(self, transport: Transport, surroundings: Surroundings, job: str, timeout_s: float) -> None:
        if not isinstance(job, str):
            raise TypeError(f"expected the job's name as a string, got {job!r}")
        self.transport = transport
        self.surroundings = surroundings
        self.job = job
        self.words = Words(transport, surroundings, job)
        self.wait_s = WAIT_S_ASSUMED
        self.step_bytes_max = 0
        self._timeout_s = timeout_s
        self._layout: Layout | None = None
        self._spec_digest = b""
        self._is_closed = False

    def close(self) -> None:
        """No call is possible any more."""
        self._is_closed = True

    @property
    def layout(self) -> Layout:
        """The job's layout; asks the server for it once. Raises Refused(UNKNOWN_JOB), ServerUnavailable."""
        if self._layout is None:
            answer = self.call("GetJob", pb.GetJobRequest(job=self.job))
            if not answer.HasField("spec"):  # one that the server could not restore
                raise Refused("JOB_FAILED", answer.failure, job=self.job, failure=answer.failure)
            self.take_job(layout_from_proto(answer.spec.layout), answer.spec_digest)
            assert self._layout is not None
        return self._layout

    def take_job(self, layout: Layout, spec_digest: bytes) -> None:
        """This is the job that is meant: its layout, and the server's digest of its specification."""
        self._spec_digest = spec_digest
        if layout != self._layout:
            self._layout = layout

    def join(self, worker: str) -> tuple[pb.JoinResponse, float]:
        """Join; the answer, and when the request for it was sent. Raises Refused, ServerUnavailable."""
        layout = self.layout
        request = pb.JoinRequest(
            job=self.job, worker=worker, layout_digest=layout.digest, spec_digest=self._spec_digest
        )

        def attempt() -> tuple[pb.JoinResponse, float]:
            sent_s = self.surroundings.now_s()
            return self.transport.call("Join", request, self.answer_s), sent_s

        joined: tuple[pb.JoinResponse, float] = self.persist(attempt)
        return joined

    def upload(self, parameters: Mapping[str, NDArray[np.generic]], token: int, patience: Patience) -> bool:
        """Send the initial parameters once. False if another worker took over or the call was lost: ask again.

        Raises Refused, and ServerUnavailable once patience is over.
        """
        flat = np.empty(self.layout.elements, np.float32)
        tensors.pack(self.layout, parameters, flat)
        header = pb.UploadHeader(
            job=self.job, upload_token=token, payload_bytes=flat.nbytes, layout_digest=self.layout.digest
        )
        try:
            self.transport.upload(header, flat, self.answer_s)
        except CallFailed as error:
            if not patience.wait(delay_of(error), moved=moved(error), why=error):
                raise ServerUnavailable(f"the parameters cannot be uploaded: {patience.why}: {error}") from error
            return False
        except Refused as error:
            if error.reason != "NOT_UPLOADER":
                raise
            if not patience.wait(why=error):
                raise ServerUnavailable(f"the parameters cannot be uploaded: {error}") from error
            return False
        return True

    def call(self, method: str, request: Message) -> Any:
        """A harmless unary call, repeated until the server answers. Raises Refused, ServerUnavailable."""
        return self.persist(lambda: self.transport.call(method, request, self.answer_s))

    def persist(self, attempt: Callable[[], Any], *, is_watched: bool = False) -> Any:
        """Repeat a harmless call until the server answers; a few times where it fails at it.

        is_watched: heartbeats look after it, as they do inside of a member's claim. Raises Refused, and
        ServerUnavailable once patience is over.
        """
        if self._is_closed:
            raise RuntimeError("expected an open worker, got one that was closed: connect again")
        if is_watched:
            return self._persist(attempt)
        with self.words.watching():
            return self._persist(attempt)

    def _persist(self, attempt: Callable[[], Any]) -> Any:
        patience, broken = self.patience(), 0
        while True:
            try:
                return attempt()
            except CallFailed as error:
                if isinstance(error, NoServer):
                    raise ServerUnavailable(str(error)) from error
                broken += isinstance(error, CallBroken)
                if isinstance(error, CallBroken) and broken == BROKEN_TRIES:
                    raise error.refusal from error
                if not patience.wait(delay_of(error), moved=moved(error), why=error):
                    raise ServerUnavailable(f"{patience.why}: {error}") from error

    def patience(self) -> Patience:
        """As long as the user has said."""
        return Patience(self._timeout_s, self.surroundings, self.words)

    def note_limits(self, limits: pb.Limits) -> None:
        """The server has told them."""
        self.wait_s = limits.wait_ms_max / 1000
        self.step_bytes_max = limits.step_bytes_max

    @property
    def answer_s(self) -> float:
        """How long to wait for an answer, or for a stream to move on."""
        return self.wait_s + WAIT_MARGIN_S
