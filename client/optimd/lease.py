"""Lease renewal in the background."""

from __future__ import annotations

import threading

from optimdpb.errors import OptimdError
from optimdpb.v1 import optimd_pb2 as pb

from optimd.transport import CallFailed, Transport

RENEWALS_PER_LEASE = 3


class LeaseKeeper:
    """A daemon thread that sends a heartbeat every third of a lease, until stopped or refused.

    A refusal (superseded, expired) is not reported from here: the worker's next call meets it too.
    """

    def __init__(self, transport: Transport, job: str, worker: str, epoch: int, lease_s: float) -> None:
        self._transport = transport
        self._request = pb.HeartbeatRequest(job=job, worker=worker, epoch=epoch)
        self._interval_s = lease_s / RENEWALS_PER_LEASE
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"optimd-lease-{worker}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more heartbeats. Does not wait for one that is on its way."""
        self._stopped.set()

    def _renew(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._transport.call("Heartbeat", self._request, timeout_s=self._interval_s)
            except CallFailed:
                continue  # the next beat tries again; a reply lost is still a sign of life received
            except OptimdError:
                return
