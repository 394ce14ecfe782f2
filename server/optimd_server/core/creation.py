"""How a job gets its first parameters: one named uploader at a time, replaced when its lease ends."""

from __future__ import annotations

from optimdpb.errors import Refused

from optimd_server.core.effects import AlreadyReady, ControlRecord, Effect, UploadAwaited, UploadNamed

# Of an uploader's lease, without a sign of its upload.
RESTART_SHARE = 1 / 3


class Creation:
    """INITIALIZING until ready. Tokens come from the job's epoch counter, so a later one voids an earlier one."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.ready = False
        self.uploader = ""
        self.token = 0
        self._lease_until_s = 0.0
        self._asked_s = 0.0

    def request(self, worker: str, fresh_token: int, now_s: float) -> list[Effect]:
        """Name the caller uploader if nobody is, if the lease is over, or if it is the uploader starting again.

        That it starts again is believed once its upload has not gone on for a part of its lease: two callers of one
        name would take it from each other for ever.
        """
        if self.ready:
            return [AlreadyReady()]
        self._asked_s = now_s
        lease_left_s = self._lease_until_s - now_s
        restarts = self.uploader == worker and lease_left_s < self.lease_s * (1 - RESTART_SHARE)
        if self.uploader and lease_left_s >= 0 and not restarts:
            return [UploadAwaited()]
        self.uploader, self.token = worker, fresh_token
        self._lease_until_s = now_s + self.lease_s
        return [UploadNamed(self.token, self.lease_s), ControlRecord("uploader", str(self.token))]

    def check(self, token: int) -> None:
        """Raises Refused(NOT_UPLOADER) unless the token is the current one of a job without parameters."""
        if self.ready or not self.uploader or token != self.token:
            state = "the job has its parameters" if self.ready else "another upload took over"
            raise Refused("NOT_UPLOADER", f"upload token {token} is not valid any more: {state}", token=token)

    def progress(self, token: int, now_s: float) -> None:
        """The upload goes on."""
        self.check(token)
        self._lease_until_s, self._asked_s = now_s + self.lease_s, now_s

    def extend(self, by_s: float) -> None:
        """Give the uploader more time."""
        self._lease_until_s += by_s
        self._asked_s += by_s

    def is_forgotten(self, now_s: float, idle_s: float) -> bool:
        """Whether nobody uploads, and nobody has asked for the job for so long."""
        return not self.ready and now_s > self._lease_until_s and now_s - self._asked_s >= idle_s

    def complete(self, token: int) -> None:
        """The parameters are in place."""
        self.check(token)
        self.ready = True
