"""Lease renewal in the background."""

from __future__ import annotations

from optimdpb.errors import OptimdError
from optimdpb.v1 import optimd_pb2 as pb

from optimd.surroundings import Surroundings
from optimd.transport import CallFailed, Transport

RENEWALS_PER_LEASE = 3


class LeaseKeeper:
    """Sends a heartbeat every third of a lease in the background, until stopped or refused.

    A refusal (superseded, expired) is not reported from here: the worker's next call meets it too.
    """

    def __init__(
        self, transport: Transport, surroundings: Surroundings, job: str, worker: str, epoch: int, lease_s: float
    ) -> None:
        self._transport = transport
        self._request = pb.HeartbeatRequest(job=job, worker=worker, epoch=epoch)
        self._interval_s = lease_s / RENEWALS_PER_LEASE
        self._end = surroundings.repeat(self._interval_s, self._beat, f"optimd-lease-{worker}")

    def stop(self) -> None:
        """Send no more heartbeats. Does not wait for one that is on its way."""
        self._end()

    def _beat(self) -> bool:
        try:
            self._transport.call("Heartbeat", self._request, timeout_s=self._interval_s)
        except CallFailed:
            return True  # the next beat tries again; a reply lost is still a sign of life received
        except OptimdError:
            return False
        return True
