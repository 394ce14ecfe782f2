"""WorkerService, its control plane: who is a member, what became of a push, shared memory."""

from __future__ import annotations

from collections.abc import Mapping

from optimdpb.errors import JobMismatch, Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.events import LeaveRequested, SignOfLife
from optimd_server.runtime import JobHost, Runtime
from optimd_server.service.dispatch import Method
from optimd_server.service.errors import shortened
from optimd_server.service.handover import TOKEN_S, Handover
from optimd_server.service.messages import check_layout, checked_name, header, lease_ms, limits, put_outcome

TRANSPORT_DETAIL_BYTES_MAX = 200
# Ten years: what is beyond is no time, and does not fit a Duration.
IDLE_S_MAX = 10 * 365 * 86_400.0


class WorkerService:
    """The functions behind the rpcs of the same names. handover: None where no memory is shared."""

    def __init__(self, runtime: Runtime, handover: Handover | None = None) -> None:
        self._runtime = runtime
        self._handover = handover

    def methods(self) -> Mapping[str, Method]:
        """What is served, by rpc name."""
        return {
            "Join": self.join,
            "Leave": self.leave,
            "Heartbeat": self.heartbeat,
            "AwaitOutcome": self.await_outcome,
            "OpenSharedMemory": self.open_shared_memory,
        }

    async def join(self, request: pb.JoinRequest) -> pb.JoinResponse:
        host = self._runtime.job(request.job)
        worker = checked_name("worker", request.worker)
        if request.layout_digest:
            check_layout(host, request.layout_digest)
        if request.spec_digest and request.spec_digest != host.spec_digest:
            raise JobMismatch("spec_digest", host.spec_digest.hex(), request.spec_digest[:32].hex())
        self._check_room(host, worker)
        joined = host.join(worker)
        shard = pb.Shard(element_start=0, element_stop=host.spec.layout.elements)
        return pb.JoinResponse(
            header=header(self._runtime, host),
            epoch=joined.epoch,
            lease_ms=lease_ms(self._runtime),
            shard_map=pb.ShardMap(map_version=1, shards=[shard]),
            rank=joined.rank,
            world_size=joined.world_size,
            limits=limits(self._runtime),
            shared_memory=self._offer(host),
            local_calls=self._local_calls(),
        )

    def _local_calls(self) -> pb.LocalCalls | None:
        handover = self._handover
        if handover is None or not handover.name:
            return None
        return pb.LocalCalls(socket=handover.name, token=handover.local.token)

    def _offer(self, host: JobHost) -> pb.SharedMemoryOffer:
        why_not = host.sharing.why_not
        if not why_not and (self._handover is None or not self._handover.name):
            why_not = "the server has no unix socket to hand memory over"
        if why_not or self._handover is None:
            return pb.SharedMemoryOffer(detail=why_not)
        return pb.SharedMemoryOffer(socket=self._handover.name)

    def _check_room(self, host: JobHost, worker: str) -> None:
        limit, members = self._runtime.config.workers_max, host.machine.state.members
        if len(members) >= limit and not members.has(worker):
            message = f"expected at most workers_max = {limit} live workers, got one more"
            raise Refused("LIMIT_EXCEEDED", message, limit="workers_max", limit_value=limit, value=limit + 1)

    async def leave(self, request: pb.LeaveRequest) -> pb.LeaveResponse:
        host = self._runtime.job(request.job)
        host.handle(LeaveRequested(request.worker, request.epoch, request.failed))
        return pb.LeaveResponse(header=header(self._runtime, host))

    async def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        host = self._runtime.job(request.job)
        host.handle(SignOfLife(request.worker, request.epoch, _idle_s(request)))
        if request.transport:
            detail = shortened(request.transport_detail, TRANSPORT_DETAIL_BYTES_MAX)
            host.note_transport(request.worker, request.epoch, request.transport, detail)
        return pb.HeartbeatResponse(
            header=header(self._runtime, host), lease_ms=lease_ms(self._runtime), local_calls=self._local_calls()
        )

    async def await_outcome(self, request: pb.AwaitOutcomeRequest) -> pb.AwaitOutcomeResponse:
        host = self._runtime.job(request.job)
        members = host.machine.state.members
        if not host.failure and members.is_live(request.worker, request.epoch):
            host.handle(SignOfLife(request.worker, request.epoch))
        wait_s = self._runtime.wait_s()
        outcome = await host.wait_outcome(request.worker, request.epoch, request.seq, wait_s)
        response = pb.AwaitOutcomeResponse(header=header(self._runtime, host), finished=host.machine.state.finished)
        put_outcome(response, outcome)
        return response

    async def open_shared_memory(self, request: pb.OpenSharedMemoryRequest) -> pb.OpenSharedMemoryResponse:
        host = self._runtime.job(request.job)
        host.handle(SignOfLife(request.worker, request.epoch))
        parameters, offer = host.sharing.parameters, self._offer(host)
        if parameters is None or self._handover is None or not offer.socket:
            raise Refused("SHARED_MEMORY_UNAVAILABLE", offer.detail)
        memory = await host.open_shared(request.worker, request.epoch)
        read_only = parameters if memory.copy is None else memory.copy
        kind = pb.SEGMENT_PARAMETERS if memory.copy is None else pb.SEGMENT_COPY
        whose = host.name, request.worker, request.epoch
        token = self._handover.offer(whose, [*memory.gradients, read_only], lent=[parameters])
        return pb.OpenSharedMemoryResponse(
            header=header(self._runtime, host),
            token=token,
            socket=offer.socket,
            token_ms=int(TOKEN_S * 1000),
            segments=[pb.SEGMENT_GRADIENT] * len(memory.gradients) + [kind],
            payload_bytes=host.shards.size_bytes,
        )


def _idle_s(request: pb.HeartbeatRequest) -> float | None:
    """How long its program has not called; a clock that went astray is no reason to lose a worker."""
    if not request.HasField("idle_ms"):
        return None
    return min(max(request.idle_ms / 1000, 0.0), IDLE_S_MAX)
