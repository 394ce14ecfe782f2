"""A server inside Ray: an actor that runs the daemon as its child, and a handle to connect to it from any task.

    server = optimd.ray.start(data_dir="/data/optimd")      # any option of `optimd serve`, by its name

    @ray.remote
    def train(server, name):
        with server.connect(job="digits", worker=name) as worker:
            ...

Connect in the task, not before: a Worker is a connection and cannot be shipped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

try:
    import ray
except ImportError as error:
    raise ImportError("optimd.ray needs Ray: pip install 'optimd[ray]'") from error

from optimdpb.errors import ServerUnavailable

from optimd.ray.actor import Place, ServerActor, tail
from optimd.ray.answers import answer_of
from optimd.ray.handle import ANSWER_S, ServerHandle, started_here
from optimd.ray.options import ServeOptions, arguments_of

__all__ = ["ServeOptions", "ServerHandle", "start"]

# Calls that wait: for the end, for the log, for the stop.
CALLS_MAX = 16
# What Ray may take beyond the server's own start.
MARGIN_S = 30.0


def start(
    *,
    host: str | None = None,
    port: int = 0,
    insecure: bool = False,
    num_cpus: float = 1.0,
    resources: Mapping[str, float] | None = None,
    scheduling_strategy: Any = None,
    startup_timeout_s: float = 300.0,
    **options: Unpack[ServeOptions],
) -> ServerHandle:
    """Start a server in an actor of the running Ray cluster.

    host: by default loopback in a cluster of one node; with insecure=True the address of the actor's node, which the
    other nodes reach (there is no TLS yet: whoever reaches it can change every job). port: 0 picks a free one.
    num_cpus, resources, scheduling_strategy: as Ray has them for an actor; they choose the node. startup_timeout_s: for
    Ray to find a node, and again for the server to come up. options: those of `optimd serve` by their names with
    underscores (data_dir="...", threads=2, shared_memory=False); a path is one of the actor's node.

    Its log goes to the actor's stderr, which Ray keeps and shows to the driver. The server ends, having saved, with
    stop(), with the actor, or with the driver; if it ends by itself the actor does too. Raises TypeError for an unknown
    option, and ServerUnavailable, with the end of the server's log, if it does not come up.
    """
    arguments = arguments_of(options)
    actor_class: Any = ray.remote(ServerActor)
    actor = actor_class.options(
        num_cpus=num_cpus,
        resources=dict(resources or {}),
        scheduling_strategy=scheduling_strategy,
        max_restarts=0,
        max_concurrency=CALLS_MAX,
    ).remote()
    try:
        asked = f"num_cpus={num_cpus:g}" + (f", resources={dict(resources)}" if resources else "")
        place = _placed(actor.place.remote(), asked, startup_timeout_s)
        ended = actor.ended.remote()
        started = actor.start.remote(host, port, arguments, startup_timeout_s, insecure=insecure)
        why = partial(_why_starting, actor, place)
        address, problem = answer_of(started, startup_timeout_s + MARGIN_S, why)
        if problem:
            raise ServerUnavailable(problem)
    except BaseException as error:
        with contextlib.suppress(Exception):
            ray.kill(actor)
        if isinstance(error, ray.exceptions.RayError):
            raise ServerUnavailable(f"the server's actor failed: {error}") from error
        raise
    started_here.add((os.getpid(), address))
    return ServerHandle(address, actor, place, ended)


def _placed(place: Any, asked: str, timeout_s: float) -> Any:
    """Where the actor runs, once Ray has found a node for it."""
    why = f"Ray has found no node for the server's actor yet ({asked}), see `ray status`"
    try:
        return answer_of(place, timeout_s, lambda: why)
    except ray.exceptions.GetTimeoutError as error:
        text = f"no room for the server's actor ({asked}) in {timeout_s:g} s: see `ray status`, or ask for less"
        raise ServerUnavailable(text) from error


def _why_starting(actor: Any, place: Place) -> str:
    """The last that the server has logged: it may compile for a minute, or read large snapshots."""
    said = ""
    with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        said = tail(ray.get(actor.log.remote(), timeout=ANSWER_S)).rpartition("\n")[2]
    return f"the server starts on node {place.ip}: {said or 'it has logged nothing yet'}"
