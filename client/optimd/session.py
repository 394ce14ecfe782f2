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
from optimd.delivery import WAIT_MARGIN_S
from optimd.patience import Patience
from optimd.surroundings import Surroundings
from optimd.transport import CallFailed, CallLost, CallThrottled, Transport

# Until the server has said how long it holds a waiting call.
WAIT_S_ASSUMED = 20.0
# Deadlines of bulk calls allow for a link this slow.
LINK_BYTES_PER_S_MIN = 5e6


class Session:
    """`wait_s`: how long the server holds a waiting call. `step_bytes_max`: the largest model for Step, 0: unknown."""

    def __init__(self, transport: Transport, surroundings: Surroundings, job: str, timeout_s: float) -> None:
        self.transport = transport
        self.surroundings = surroundings
        self.job = job
        self.wait_s = WAIT_S_ASSUMED
        self.step_bytes_max = 0
        self._timeout_s = timeout_s
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """The job's layout; asks the server for it once. Raises Refused(UNKNOWN_JOB), ServerUnavailable."""
        if self._layout is None:
            self._layout = layout_from_proto(self.call("GetJob", pb.GetJobRequest(job=self.job)).spec.layout)
        return self._layout

    def take_layout(self, layout: Layout) -> bool:
        """It is the job's. Whether another one was before: a server that lost the job has it anew."""
        other = self._layout is not None and self._layout != layout
        self._layout = layout
        return other

    def upload(self, parameters: Mapping[str, NDArray[np.generic]], token: int) -> bool:
        """Send the initial parameters once. False if another worker took over or the server went away: ask again."""
        flat = np.empty(self.layout.elements, np.float32)
        tensors.pack(self.layout, parameters, flat)
        header = pb.UploadHeader(
            job=self.job, upload_token=token, payload_bytes=flat.nbytes, layout_digest=self.layout.digest
        )
        try:
            self.transport.upload(header, flat, self.bulk_timeout_s())
        except CallFailed:
            return False
        except Refused as error:
            if error.reason != "NOT_UPLOADER":
                raise
            return False
        return True

    def call(self, method: str, request: Message) -> Any:
        """A harmless unary call, repeated until the server answers. Raises Refused, ServerUnavailable."""
        return self.persist(lambda: self.transport.call(method, request, self.wait_s + WAIT_MARGIN_S))

    def persist(self, attempt: Callable[[], Any]) -> Any:
        """Repeat a harmless call until the server answers. Raises ServerUnavailable once patience is over."""
        patience = self.patience()
        while True:
            try:
                return attempt()
            except (CallLost, CallThrottled) as error:
                if not patience.wait(getattr(error, "retry_delay_s", None)):
                    raise ServerUnavailable(f"the server cannot be reached: {error}") from error

    def patience(self) -> Patience:
        """As long as the user has said."""
        return Patience(self._timeout_s, self.surroundings)

    def note_limits(self, limits: pb.Limits) -> None:
        """The server has told them."""
        self.wait_s = limits.wait_ms_max / 1000
        self.step_bytes_max = limits.step_bytes_max

    def bulk_timeout_s(self) -> float:
        """Enough to move the parameters once."""
        return WAIT_MARGIN_S + self.layout.size_bytes / LINK_BYTES_PER_S_MIN
