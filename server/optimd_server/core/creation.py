"""How a job gets its first parameters: one named uploader at a time, replaced when its lease ends."""

from __future__ import annotations

from optimdpb.errors import Refused

from optimd_server.core.effects import AlreadyReady, ControlRecord, Effect, UploadAwaited, UploadNamed


class Creation:
    """INITIALIZING until ready. Tokens come from the job's epoch counter, so a later one voids an earlier one."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.ready = False
        self.uploader = ""
        self.token = 0
        self._lease_until_s = 0.0

    def request(self, worker: str, fresh_token: int, now_s: float) -> list[Effect]:
        """Name the caller uploader if nobody is, if the lease is over, or if it is the uploader starting again."""
        if self.ready:
            return [AlreadyReady()]
        if self.uploader and self.uploader != worker and now_s <= self._lease_until_s:
            return [UploadAwaited()]
        self.uploader, self.token = worker, fresh_token
        self._lease_until_s = now_s + self.lease_s
        return [UploadNamed(self.token, self.lease_s), ControlRecord("uploader", str(self.token))]

    def check(self, token: int) -> None:
        """Raises Refused(NOT_UPLOADER) unless the token is the current one of a job without parameters."""
        if self.ready or token != self.token:
            state = "the job has its parameters" if self.ready else "another upload took over"
            raise Refused("NOT_UPLOADER", f"upload token {token} is not valid any more: {state}", token=token)

    def progress(self, token: int, now_s: float) -> None:
        """The upload goes on."""
        self.check(token)
        self._lease_until_s = now_s + self.lease_s

    def extend(self, by_s: float) -> None:
        """Give the uploader more time."""
        self._lease_until_s += by_s

    def complete(self, token: int) -> None:
        """The parameters are in place."""
        self.check(token)
        self.ready = True
