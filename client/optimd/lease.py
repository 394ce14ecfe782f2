"""Lease renewal in the background."""

from __future__ import annotations

from optimdpb.errors import OptimdError, Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd.surroundings import Surroundings
from optimd.transport import CallFailed, Transport

RENEWALS_PER_LEASE = 3
TRANSPORT_DETAIL_MAX = 200


class LeaseKeeper:
    """Sends a heartbeat every third of a lease in the background, until stopped or refused.

    `local_calls`: how the server offered to be called, the last time that it was heard.
    `renewed_s`: when the last heartbeat that was answered went out.
    `expired`: a heartbeat was refused because the epoch is not live any more. Other refusals (superseded) are not
    reported from here: the worker's next call meets them too.
    """

    def __init__(
        self, transport: Transport, surroundings: Surroundings, job: str, worker: str, joined: pb.JoinResponse
    ) -> None:
        self._transport = transport
        self._request = pb.HeartbeatRequest(job=job, worker=worker, epoch=joined.epoch)
        self._interval_s = joined.lease_ms / 1000 / RENEWALS_PER_LEASE
        self.expired = False
        self.renewed_s = surroundings.now_s()
        self._now_s = surroundings.now_s
        self.local_calls = joined.local_calls
        self._end = surroundings.repeat(self._interval_s, self._beat, f"optimd-lease-{worker}")

    def tell(self, transport: pb.Transport, detail: str) -> None:
        """From the next heartbeat on the server knows how this worker's payloads travel, and why."""
        self._request.transport, self._request.transport_detail = transport, detail[:TRANSPORT_DETAIL_MAX]

    def stop(self) -> None:
        """Send no more heartbeats. Does not wait for one that is on its way."""
        self._end()

    def _beat(self) -> bool:
        sent_s = self._now_s()
        try:
            answer = self._transport.call("Heartbeat", self._request, timeout_s=self._interval_s)
        except CallFailed:
            return True  # the next beat tries again; a reply lost is still a sign of life received
        except OptimdError as error:
            self.expired = isinstance(error, Refused) and error.reason in ("LEASE_EXPIRED", "NOT_JOINED")
            return False
        self.local_calls, self.renewed_s = answer.local_calls, sent_s
        return True
