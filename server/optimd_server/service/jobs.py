"""JobService: create, upload, inspect."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import secrets
from collections.abc import AsyncIterator, Mapping

import numpy as np
from optimdpb.codec import job_spec_from_proto
from optimdpb.errors import Refused
from optimdpb.frames import Framed
from optimdpb.specs import JobSpec, Sync
from optimdpb.specs.schedules import as_schedule
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.clock import LR
from optimd_server.core.effects import UploadAwaited, UploadNamed
from optimd_server.core.events import UploadCompleted, UploadProgressed
from optimd_server.runtime import JobHost, Runtime
from optimd_server.runtime.shielded import to_its_end
from optimd_server.service.changes import check_schedules
from optimd_server.service.dispatch import Method
from optimd_server.service.messages import (
    check_layout,
    check_limit,
    check_requester,
    checked_name,
    checksum_of,
    header,
    limits,
    next_chunk,
    required,
    state_to_proto,
)
from optimd_server.service.reports import job_report

PAGE_SIZE = 100
PAGE_SIZE_MAX = 1000
# Larger specifications are read on a thread, one at a time: the largest take seconds.
SPEC_INLINE_BYTES_MAX = 16 * 1024


class JobService:
    """The functions behind the rpcs of the same names."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._reading = asyncio.Lock()

    def methods(self) -> Mapping[str, Method]:
        """What is served, by rpc name."""
        return {
            "GetServerInfo": self.get_server_info,
            "CreateJob": self.create_job,
            "UploadParameters": self.upload_parameters,
            "GetJob": self.get_job,
            "ListJobs": self.list_jobs,
            "CreateSnapshot": self.create_snapshot,
            "DeleteJob": self.delete_job,
        }

    async def get_server_info(self, request: pb.GetServerInfoRequest) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(
            incarnation=self._runtime.incarnation,
            server_version=importlib.metadata.version("optimd"),
            limits=limits(self._runtime),
        )

    async def create_job(self, request: pb.CreateJobRequest) -> pb.CreateJobResponse:
        name = checked_name("job", request.job)
        worker = checked_name("worker", request.worker)
        host, answer = await self._runtime.create(
            name, await self._spec_of(required(request, "spec")), worker, again=request.again
        )
        response = pb.CreateJobResponse(
            header=header(self._runtime, host),
            limits=limits(self._runtime),
            spec_digest=host.spec_digest,
            finished=host.machine.state.finished,
        )
        match answer:
            case UploadNamed():
                response.disposition = pb.CREATE_DISPOSITION_UPLOAD
                response.upload_token = answer.token
                response.upload_lease_ms = int(answer.lease_s * 1000)
            case UploadAwaited():
                response.disposition = pb.CREATE_DISPOSITION_WAIT
            case None:
                response.disposition = pb.CREATE_DISPOSITION_READY
        return response

    async def _spec_of(self, message: pb.JobSpec) -> JobSpec:
        """Raises Refused(LIMIT_EXCEEDED) before it reads one that is too large, and what job_spec_from_proto raises."""
        config = self._runtime.config
        check_limit("spec_bytes_max", config.spec_bytes_max, message.ByteSize())
        check_limit("tensors_max", config.tensors_max, len(message.layout.tensors))
        check_limit("groups_max", config.groups_max, len(message.groups))
        if message.ByteSize() <= SPEC_INLINE_BYTES_MAX:
            spec = job_spec_from_proto(message)
        else:
            spec = await to_its_end(self._reading, lambda: asyncio.to_thread(job_spec_from_proto, message))
        if isinstance(spec.consistency, Sync):
            check_limit("workers_max", config.workers_max, spec.consistency.workers)
        check_schedules(self._runtime, {LR: as_schedule(LR, spec.optimizer.lr), **spec.optimizer.scheduled()})
        return spec

    async def upload_parameters(self, requests: AsyncIterator[Framed]) -> pb.UploadParametersResponse:
        first = await anext(requests, None)
        if first is None:
            raise Refused("MALFORMED_REQUEST", "expected an upload header, got an empty stream", field="header")
        upload = required(first.message, "header")
        host = self._runtime.job(upload.job)
        host.handle(UploadProgressed(upload.upload_token))
        check_layout(host, upload.layout_digest)
        vector = host.shards.upload_vector()
        if upload.payload_bytes != vector.payload_bytes:
            message = f"expected payload_bytes {vector.payload_bytes}, got {upload.payload_bytes}"
            raise Refused("PAYLOAD_SIZE_MISMATCH", message, expected=vector.payload_bytes, got=upload.payload_bytes)
        request: Framed | None = first
        while request is not None:
            host.handle(UploadProgressed(upload.upload_token))
            vector.write(request.message.offset_bytes, request.data, checksum_of(request.message))
            request = await next_chunk(requests)
        host.handle(UploadProgressed(upload.upload_token))  # a job that is gone is the reason, not what is missing
        vector.check_complete()
        if not np.isfinite(vector.magnitude_max):
            tensor = _first_non_finite(host)
            message = f"tensor {tensor!r}: expected finite parameters, got NaN or infinity"
            raise Refused("NON_FINITE_PARAMETERS", message, tensor=tensor)
        host.handle(UploadCompleted(upload.upload_token, secrets.token_hex(16)))
        return pb.UploadParametersResponse(header=header(self._runtime, host))

    async def get_job(self, request: pb.GetJobRequest) -> pb.GetJobResponse:
        failure = self._runtime.unrestored.get(request.job)
        if failure is not None:
            now = pb.Header(incarnation=self._runtime.incarnation)
            return pb.GetJobResponse(header=now, state=pb.JOB_STATE_FAILED, failure=failure)
        return job_report(self._runtime, self._runtime.job(request.job))

    async def create_snapshot(self, request: pb.CreateSnapshotRequest) -> pb.CreateSnapshotResponse:
        host = self._runtime.job(request.job)
        path = await self._runtime.save(host)
        return pb.CreateSnapshotResponse(header=header(self._runtime, host), snapshot=str(path))

    async def delete_job(self, request: pb.DeleteJobRequest) -> pb.DeleteJobResponse:
        check_requester(request.requester)
        version, kept = await self._runtime.delete(
            request.job,
            with_snapshots=request.with_snapshots,
            expected_lineage=request.expected_lineage if request.HasField("expected_lineage") else None,
            requester=request.requester,
        )
        now = pb.Header(lineage=version.lineage, step=version.step, incarnation=self._runtime.incarnation)
        return pb.DeleteJobResponse(header=now, snapshots_kept=kept)

    async def list_jobs(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        size = request.page_size or PAGE_SIZE
        if not 1 <= size <= PAGE_SIZE_MAX:
            message = f"page_size: expected 1 to {PAGE_SIZE_MAX}, got {request.page_size}"
            raise Refused("MALFORMED_REQUEST", message, field="page_size")
        after = _name_of_token(request.page_token)
        names = [name for name in sorted({*self._runtime.jobs, *self._runtime.unrestored}) if name > after]
        response = pb.ListJobsResponse()
        for name in names[:size]:
            host = self._runtime.jobs.get(name)
            if host is None:
                response.jobs.add(job=name, state=pb.JOB_STATE_FAILED)
                continue
            response.jobs.add(
                job=name,
                header=header(self._runtime, host),
                state=state_to_proto(host),
                worker_count=len(host.machine.state.members),
            )
        if len(names) > size:
            response.next_page_token = base64.urlsafe_b64encode(names[size - 1].encode()).decode()
        return response


def _name_of_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:
        message = f"page_token: expected one from an earlier page, got {token[:100]!r}"
        raise Refused("MALFORMED_REQUEST", message, field="page_token") from error


def _first_non_finite(host: JobHost) -> str:
    flat, layout = host.shards.flat_parameters(), host.spec.layout
    element = int(np.argmin(np.isfinite(flat)))
    index = int(np.searchsorted(layout.offsets, element, side="right")) - 1
    return layout.tensors[index].name
