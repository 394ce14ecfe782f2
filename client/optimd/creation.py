"""Making a job, or finding that it is there: what comes before a worker joins it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from optimdpb.codec import spec_digest
from optimdpb.errors import Refused
from optimdpb.specs import Layout
from optimdpb.v1 import optimd_pb2 as pb

from optimd.session import Session

log = logging.getLogger(__name__)

# Above it the server is asked for its limit before it is sent a specification.
SPEC_BYTES_SURELY_TAKEN = 64 << 10
IF_EXISTS = ("resume", "replace", "error")
# With these a job of that name is there, and another one than was asked for.
_IN_THE_WAY = ("JOB_MISMATCH", "JOB_FAILED")
# The job is not there any more, or is another one than a moment ago.
_GONE = ("UNKNOWN_JOB", "JOB_DELETED", "REVISION_MISMATCH")


@dataclass(frozen=True)
class JobStart:
    """How ensure_job() found the job.

    created: with the parameters given here; else somebody created it with theirs. global_step: where it goes on, 0 for
    one that begins. finished: it has reached steps_max.
    """

    created: bool
    global_step: int
    finished: bool


class Creation:
    """One ensure_job() without its Join. if_exists: see Worker.ensure_job()."""

    def __init__(self, session: Session, request: pb.CreateJobRequest, if_exists: str) -> None:
        if if_exists not in IF_EXISTS:
            raise ValueError(f"expected if_exists of {IF_EXISTS}, got {if_exists!r}")
        self._session = session
        self._request = request
        self._if_exists = if_exists
        self._replacing = session.patience()
        self._has_told = False

    def run(self, layout: Layout, parameters: Mapping[str, NDArray[Any]]) -> JobStart:
        """Until the job has its parameters. Raises Refused, ServerUnavailable."""
        with self._session.words.watching():
            return self._run(layout, parameters)

    def _run(self, layout: Layout, parameters: Mapping[str, NDArray[Any]]) -> JobStart:
        session, uploading, patience = self._session, False, self._session.patience()
        self._check_size()
        while True:
            created = self._create()
            if created is None:
                continue
            session.note_limits(created.limits)
            session.take_job(layout, created.spec_digest)
            if created.disposition == pb.CREATE_DISPOSITION_READY:
                start = JobStart(uploading, created.header.step, created.finished)
                if uploading or self._may_join(start, created.header.lineage):
                    return start
                continue
            self._request.again = True
            if created.disposition != pb.CREATE_DISPOSITION_UPLOAD:
                patience.heard()
                continue
            uploading = True
            if session.upload(parameters, created.upload_token, patience):
                return JobStart(created=True, global_step=0, finished=False)

    def _check_size(self) -> None:
        """Raises Refused(LIMIT_EXCEEDED): gRPC would refuse to carry it, and not say why."""
        size = self._request.spec.ByteSize()
        if size <= SPEC_BYTES_SURELY_TAKEN:
            return
        limit = self._session.call("GetServerInfo", pb.GetServerInfoRequest()).limits.spec_bytes_max
        if limit and size > limit:
            message = f"expected a specification of at most spec_bytes_max = {limit}, got {size}: take fewer tensors, "
            message += "shorter names, or shorter schedules"
            raise Refused("LIMIT_EXCEEDED", message, limit="spec_bytes_max", limit_value=limit, value=size)

    def _create(self) -> pb.CreateJobResponse | None:
        """None where another job was in the way, and is not any more."""
        try:
            created: pb.CreateJobResponse = self._session.call("CreateJob", self._request)
        except Refused as error:
            if self._if_exists != "replace" or error.reason not in _IN_THE_WAY:
                raise
            self._replace(None)
            return None
        return created

    def _may_join(self, start: JobStart, lineage: str) -> bool:
        """Whether the job goes on as it is; if not, it has been replaced, or has yet to be."""
        if start.global_step == 0:  # it begins: other workers of this run may have created it
            return True
        where = f"job {self._request.job!r} exists and {'has finished' if start.finished else 'is'} at step"
        if self._if_exists == "replace":
            self._replace(lineage)
            return False
        if self._if_exists == "error":
            message = (
                f"expected no job that has begun, since if_exists='error': {where} {start.global_step}. Take another"
            )
            message += " job name, or if_exists='resume' (all workers of a run but the first) or 'replace'"
            state = "FINISHED" if start.finished else "READY"
            raise Refused("WRONG_STATE", message, job=self._request.job, state=state)
        text = "%s %d: it goes on from there, and the parameters given here were not used (if_exists='resume'; "
        text += "if_exists='replace' begins anew, another job name begins beside it%s)"
        longer = "; optimd set-steps or worker.set_steps() makes it longer" if start.finished else ""
        log.warning(text, where, start.global_step, longer)
        return True

    def _replace(self, lineage: str | None) -> None:
        """Delete the job in the way, of this lineage if one is given, once nobody else works on it; or wait a while."""
        session, request = self._session, self._request
        request.again = False
        try:
            report = session.call("GetJob", pb.GetJobRequest(job=request.job))
            if lineage is None and self._has_made_room(report):
                return
            others = [member.worker for member in report.workers if member.worker != request.worker]
            if others:
                self._wait_for(others)
                return
            delete = pb.DeleteJobRequest(
                job=request.job,
                expected_lineage=report.header.lineage if lineage is None else lineage,
                requester=request.worker,
            )
            session.call("DeleteJob", delete)
        except Refused as error:
            if error.reason not in _GONE:
                raise
        else:
            log.warning("job %r was at step %d and is replaced by a new one", request.job, report.header.step)

    def _has_made_room(self, report: pb.GetJobResponse) -> bool:
        """Whether another worker has replaced the job that was in the way since."""
        if report.state == pb.JOB_STATE_FAILED:
            return False
        return report.state == pb.JOB_STATE_INITIALIZING or report.spec_digest == spec_digest(self._request.spec)

    def _wait_for(self, others: list[str]) -> None:
        named = ", ".join(others[:10])
        message = f"job {self._request.job!r} cannot be replaced while others work on it: {named}"
        if not self._has_told:
            self._has_told = True
            log.warning("%s; waiting for them to leave, or for their leases to end", message)
        if not self._replacing.wait(why=message):
            remedy = (
                "stop them, or let one worker say if_exists='replace' and the others 'resume'; or optimd delete-job"
            )
            raise Refused("WRONG_STATE", f"{message}: {remedy}", job=self._request.job, state="READY")
