"""The gRPC server around a runtime: ports, health, reflection, an orderly start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.ports import check_port
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
    # Who connects and does not speak HTTP/2. (grpc.max_connection_idle_ms takes a seventh of every small call's time.)
    ("grpc.server_handshake_timeout_ms", 10_000),
)

# So long those who watch the server's health have to be told.
HEALTH_S = 0.5


class Service:
    """Serves a runtime: start() binds, prepares and serves; stop() saves and ends."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS)
        self.gate = Gate(runtime.config)
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
            [generic_handler(name, methods, self.gate) for name, methods in services.items()]
        )
        local.calls = unary_calls("WorkerService", services["WorkerService"], self.gate)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [pb.DESCRIPTOR.services_by_name[name].full_name for name in services]
        self._health_names = ("", *names)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._no_grace = asyncio.Event()

    async def start(self, host: str, port: int, prepare: Callable[[], Awaitable[None]] | None = None) -> int:
        """Serve on a port, 0 picks one; returns it. Raises OSError if it is in use, or the data directory fails.

        The port is bound at once. Until prepare() is through and every job restored, health says NOT_SERVING and calls
        are refused STARTING_UP.
        """
        bound = await self._bind(host, port)
        if prepare is not None:
            await prepare()
        await self._runtime.start()
        if self._runtime.config.shared_memory:
            self._handover.start()
        self.gate.open = True
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def _bind(self, host: str, port: int) -> int:
        check_port(host, port)
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error}") from error
        if bound == 0:
            raise OSError(f"cannot listen on {host}:{port}")
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        return bound

    async def _set_health(self, status: int) -> None:
        """Tell those who watch, but do not wait for one that takes nothing."""
        telling = [asyncio.create_task(self._health.set(name, status)) for name in self._health_names]
        await asyncio.wait(telling, timeout=HEALTH_S)

    async def stop(self) -> None:
        """Tell health checks, let waiting calls answer, save, then give streams a moment and cut them.

        Nothing that a caller does, or leaves undone, keeps anything from being saved. Raises Refused(STORAGE_FAILED) if
        a job could not be saved.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._runtime.freeze()
        try:
            await self._runtime.save_all()
        finally:
            await self._cut()
            await self._runtime.close()

    def hasten(self) -> None:
        """While stop() runs: nothing is tried again, nobody is given time."""
        self._runtime.hurry()
        self._no_grace.set()

    async def _cut(self) -> None:
        """Calls have a while to end, unless somebody hastens."""
        grace_s = 0.0 if self._no_grace.is_set() else self._runtime.config.drain_s_max
        ends = asyncio.create_task(self._close_calls(grace_s))
        hastened = asyncio.create_task(self._no_grace.wait())
        await asyncio.wait([ends, hastened], return_when=asyncio.FIRST_COMPLETED)
        hastened.cancel()
        if not ends.done():
            ends.cancel()
            await self._close_calls(0.0)
        await asyncio.gather(ends, return_exceptions=True)

    async def _close_calls(self, grace_s: float) -> None:
        await asyncio.gather(self._handover.close(grace_s), self._server.stop(grace_s))
