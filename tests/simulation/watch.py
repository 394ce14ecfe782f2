"""Looking on while a server works: every event of the job, every answer, every end of a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimd_server.core.events import Event, Ticked
from optimd_server.runtime import JobHost, Runtime
from optimd_server.runtime.eventlog import EventLog
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from tests.simulation.checkers import Violation, require
from tests.simulation.disk import FailingFile
from tests.simulation.network import methods_of
from tests.simulation.scenario import PUSH_TIMEOUT_S, WAIT_S
from tests.simulation.workers import JOB

if TYPE_CHECKING:
    from tests.simulation.world import World

# The longest wait, and as many chunks as there are, each as late as the server allows.
CALL_S_MAX = WAIT_S + 4 * PUSH_TIMEOUT_S


def watch(world: World, runtime: Runtime) -> None:
    """The job, if it is there, those that will be made in its place, and their ends."""
    if JOB in runtime.jobs:
        _watch_host(world, runtime.jobs[JOB])
    find_or_create, forget = runtime.find_or_create, runtime._forget

    def found(name: str, spec: Any, **options: Any) -> JobHost:
        host = find_or_create(name, spec, **options)
        if name == JOB and "handle" not in vars(host.machine):
            world.checkers.begin(host.spec)
            _watch_host(world, host)
        return host

    def forgotten(name: str, why: Refused) -> None:
        host = runtime.jobs.get(name)
        forget(name, why)
        if host is not None and name == JOB:
            world.log("server", f"forgets the job: {why}")
            require(host._staging not in runtime._budget.jobs, "a job that is gone keeps room for gradients")
            world.checkers.over()
            if why.reason == "JOB_DELETED":
                world.checkers.deleted.add(world.checkers.job)
                world.keeping.deleted(host)

    runtime.find_or_create = found  # type: ignore[method-assign]
    runtime._forget = forgotten  # type: ignore[method-assign]


def _watch_host(world: World, host: JobHost) -> None:
    real = host.machine.handle

    def handle(event: Event, now_s: float) -> Any:
        if isinstance(event, Ticked):
            world.checkers.check_staged(host, {call.caller for call in world.network.handling})
            _check_calls(world)
        before = world.checkers.before(host)
        try:
            effects = real(event, now_s)
        except Refused as error:
            world.log("server", f"refuses {error.reason}:", event)
            world.checkers.refused(host, event, before)
            raise
        if world.trace is not None:
            world.log("server", event, "->", *effects)
        world.checkers.took(host, event, effects, now_s)
        return effects

    def fail(error: Exception, what: str, **_: object) -> None:
        violation = Violation(f"the job failed: {what}: {error!r}")
        violation.__cause__ = error
        world.loop.fail(violation)

    if world.scenario.mischief_per_s > 0:
        file = FailingFile(world.mischief.randrange(100))
        host.event_log = EventLog(Path("simulated"), file, 1 << 20)  # type: ignore[arg-type]
    host.machine.handle = handle  # type: ignore[method-assign]
    host.fail = fail  # type: ignore[method-assign]


def _check_calls(world: World) -> None:
    """No call is in hand for ever, whatever its caller does or leaves undone."""
    since_s = min((call.began_s for call in world.network.handling), default=world.loop.time())
    age_s = world.loop.time() - since_s
    require(age_s <= CALL_S_MAX, f"a call has been in hand for {age_s:.1f} s")


def methods_told(world: World, runtime: Runtime) -> dict[str, Any]:
    """What the server does, by rpc name; each outcome is seen as it leaves the server."""
    methods = methods_of(runtime)
    for name in ("Push", "Step", "AwaitOutcome"):
        methods[name] = _told(world, runtime, methods[name])
    return methods


def _told(world: World, runtime: Runtime, method: Callable[..., Any]) -> Callable[..., Any]:
    async def seen(request: Any) -> Any:
        answer = await method(request)
        response = pb.StepResponse.FromString(answer) if isinstance(answer, bytes) else answer
        if response.state == pb.PUSH_STATE_DONE:
            header = getattr(getattr(request, "message", request), "header", request)
            if getattr(header, "job", "") == JOB and hasattr(header, "epoch"):
                world.checkers.answered(header.worker, header.epoch, response.outcome)
                _check_bound(world, runtime, header, response.outcome)
        return answer

    return seen


def _check_bound(world: World, runtime: Runtime, header: Any, outcome: pb.Outcome) -> None:
    host = runtime.jobs.get(JOB)
    account = None if host is None else host.machine.state.ledger.find(header.worker, header.epoch)
    if host is None or account is None or account.pending or account.last_seq != outcome.seq:
        return
    world.checkers.check_bound(header.worker, header.epoch, host.machine.state.finished)
