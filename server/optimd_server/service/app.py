"""The gRPC server around a runtime: ports, health, reflection, an orderly end."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.runtime import Runtime
from optimd_server.service.changes import ChangeService
from optimd_server.service.dispatch import Gate, generic_handler, unary_calls
from optimd_server.service.handover import Handover
from optimd_server.service.jobs import JobService
from optimd_server.service.local import LocalServer
from optimd_server.service.payloads import PayloadService
from optimd_server.service.workers import WorkerService

_OPTIONS = (
    # Two servers on one port would share its calls at random; a port in use must be an error.
    ("grpc.so_reuseport", 0),
    # Clients ping every 10 s, also while they wait; the default would answer with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Who connects and does not speak HTTP/2, or is silent for long: calls that wait keep a connection, heartbeats too.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
)


class Service:
    """Serves a runtime. start() binds; stop() drains."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS)
        gate = self.gate = Gate(runtime.config)
        local = LocalServer()
        self._handover = Handover(local)
        services = {
            "JobService": {**JobService(runtime).methods(), **ChangeService(runtime).methods()},
            "WorkerService": {
                **WorkerService(runtime, self._handover).methods(),
                **PayloadService(runtime).methods(),
            },
            "ShardService": {},
        }
        self._server.add_generic_rpc_handlers(
            [generic_handler(name, methods, gate) for name, methods in services.items()]
        )
        local.calls = unary_calls("WorkerService", services["WorkerService"], gate)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [pb.DESCRIPTOR.services_by_name[name].full_name for name in services]
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    async def start(self, host: str, port: int) -> int:
        """Bind and serve; port 0 picks one. Returns the port. Raises OSError if it is in use."""
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error}") from error
        if bound == 0:
            raise OSError(f"cannot listen on {host}:{port}")
        if self._runtime.config.shared_memory:
            self._handover.start()
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self) -> None:
        """Tell health checks, let waiting calls answer, finish what is on its way, save, then close.

        Raises Refused(STORAGE_FAILED) if a job could not be saved.
        """
        await self._health.enter_graceful_shutdown()
        await self._runtime.drain()
        await self._handover.close(self._runtime.config.drain_s_max)
        await self._server.stop(self._runtime.config.drain_s_max)
        await self._runtime.drain()
        try:
            await self._runtime.save_all()
        finally:
            await self._runtime.close()
