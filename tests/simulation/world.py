"""One simulated run: a server that crashes and comes back, workers that come and go, an operator, bad weather."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimd.worker import Worker
from optimd_server.core.events import Event, Ticked
from optimd_server.runtime import JobHost, Runtime
from optimd_server.runtime.eventlog import EventLog
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from tests.simulation.bystander import Bystander
from tests.simulation.checkers import Checkers, Gradient, Violation, require
from tests.simulation.disk import FailingFile, SimulatedDisk, SimulatedStore
from tests.simulation.keeping import Keeping
from tests.simulation.loop import SimulatedLoop, Stuck
from tests.simulation.network import Network, Weather, methods_of
from tests.simulation.process import Process
from tests.simulation.scenario import LEASE_S, PUSH_TIMEOUT_S, TICK_S, WAIT_S, Scenario
from tests.simulation.workers import JOB, SimulatedWorker

__all__ = ["JOB", "World"]

# Faults stop here at the latest; a run that is not over so long after that is stuck.
FAULTS_S_MAX = 60.0
PROGRESS_S_MAX = 600.0
# The longest wait, and as many chunks as there are, each as late as the server allows.
CALL_S_MAX = WAIT_S + 4 * PUSH_TIMEOUT_S


class World:
    """Everything of one run. run() raises Violation."""

    def __init__(self, scenario: Scenario, *, trace: bool = False) -> None:
        self.scenario = scenario
        self.dice = random.Random(f"world {scenario.seed}")
        # For what programs and proxies do wrong: what else happens stays the same without it.
        self.mischief = random.Random(f"mischief {scenario.seed}")
        self.loop = SimulatedLoop(lambda: self.dice.random() * 0.05)
        self.network = Network(self.loop, self.dice)
        self.keeping = Keeping()
        self.disk = SimulatedDisk(lambda: self.disk_full, self._write)
        self.disk_full = False
        # How long a save takes at most, and how many of the next starts end before they serve.
        self.save_s = 0.0
        self.starts_in_vain = 0
        self.start = np.linspace(-1.0, 2.0, scenario.spec.layout.elements, dtype=np.float32)
        self.checkers = Checkers(scenario.spec, self.start, LEASE_S, TICK_S)
        self.workers: list[SimulatedWorker] = []
        self.runtime: Runtime | None = None
        self._starting: asyncio.Task[None]
        self.clock_offset_s = 0.0
        self.faulty = scenario.faults_per_s > 0
        self.trace: list[str] | None = [] if trace else None
        self.operators: list[Process] = []
        self.bystander: Bystander | None = None
        self.operators_started = 0
        self._names = 0
        self._gradients = 0
        self._stopping = False

    def run(self) -> None:
        """To the end of training. Raises Violation, or whatever failed."""
        self.loop.call_soon(self._begin)
        try:
            self.loop.run()
        except Stuck as error:
            raise Violation(f"stuck at {self.loop.time():.1f} s: {self._waiting_for()}") from error
        finally:
            self.loop.set_exception_handler(lambda *_: None)
            for worker in self.workers:
                worker.kill()
            if self.bystander is not None:
                self.bystander.kill()
        self.checkers.check_history()

    def log(self, who: str, *what: object) -> None:
        """One line of the trace, if it is kept."""
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():10.4f}  {who:8} {' '.join(map(str, what))}")

    def sent(self, header: pb.PushHeader, flat: NDArray[np.float32], gradient: Gradient) -> None:
        """A push leaves a worker."""
        self.log(header.worker, f"sends epoch {header.epoch} seq {header.seq} base {header.base_version.step}")
        self.checkers.note_sent(header, flat, gradient)

    def gradient(self, taken_at: bytes) -> Gradient:
        """Some numbers, now and then nonsense."""
        self._gradients += 1
        elements = self.scenario.spec.layout.elements
        flat = np.random.default_rng(self._gradients).standard_normal(elements, np.float32)
        if self.dice.random() < self.scenario.bad:
            flat[self.dice.randrange(elements)] = self.dice.choice((np.nan, np.inf, 1e30))
        return Gradient(self._gradients, flat.tobytes(), taken_at)

    def ensure_job(self, worker: Worker) -> None:
        """As every worker's program begins."""
        spec = self.scenario.spec
        worker.ensure_job(
            self.named(self.start),
            spec.optimizer,
            spec.consistency,
            clip=spec.clip,
            steps_max=spec.steps_max,
            rejections_max=spec.rejections_max,
        )

    def named(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """A flat vector as tensors by name."""
        layout = self.scenario.spec.layout
        pairs = zip(layout.tensors, layout.offsets, strict=False)
        return {tensor.name: flat[start : start + tensor.elements] for tensor, start in pairs}

    def _begin(self) -> None:
        self.start_server()
        for _ in range(self.scenario.workers):
            self.add_worker()
        if self.scenario.bystander:
            self.bystander = Bystander(self)
            self.save_s = 0.5
        self.loop.call_later(0.5, self._look_after)
        if self.faulty:
            self._plan_fault()
        if self.scenario.mischief_per_s > 0:
            self._plan_mischief()

    # --- the server ------------------------------------------------------------------------------------------------

    def start_server(self) -> None:
        """A new process on what the disk holds."""
        runtime = Runtime(self.scenario.config, self.server_clock, SimulatedStore(self.disk), self.loop.time)
        if self.starts_in_vain > 0:
            self.starts_in_vain -= 1
            self.log("server", "finds its port in use")
            runtime._threads.close()
            self.loop.call_later(self.mischief.random(), self.start_server)
            return
        self.runtime = runtime
        self._starting = self.loop.create_task(self._start(runtime))
        self._starting.add_done_callback(self._started)

    def _started(self, starting: asyncio.Task[None]) -> None:
        error = None if starting.cancelled() else starting.exception()
        if error is not None:
            self.loop.fail(error)

    async def _start(self, runtime: Runtime) -> None:
        """As Service.start() does it."""
        clean = self.keeping.is_whole(JOB)
        await runtime.start()
        self.keeping.check(runtime.jobs)
        self.keeping.serves()
        for name, host in runtime.jobs.items():
            if name == JOB:
                self.log("server", f"starts, {'clean' if clean else 'after a crash'}")
                self._watch(host)
                self.checkers.restarted(host, clean)
        if JOB not in runtime.jobs:
            self.log("server", "starts with nothing")
            self.checkers.lost_everything()
        find_or_create = runtime.find_or_create

        def watched(name: str, spec: Any, **options: Any) -> JobHost:
            host = find_or_create(name, spec, **options)
            if name == JOB and "handle" not in vars(host.machine):
                self._watch(host)
            return host

        runtime.find_or_create = watched  # type: ignore[method-assign]
        methods = methods_of(runtime)
        for name in ("Push", "Step", "AwaitOutcome"):
            methods[name] = self._told(runtime, methods[name])
        self.network.methods = methods

    async def save(self, job: str) -> None:
        """An operator saves a job."""
        runtime = self.runtime
        if runtime is None or job not in runtime.jobs:
            return
        step = runtime.jobs[job].machine.version.step
        try:
            path = await runtime.save(runtime.jobs[job])
        except Refused as error:
            self.log("operator", f"no snapshot: {error.reason}")
        else:
            self.log("operator", f"has {job} at step {step} or later saved in {path}")
            self.keeping.promise(job, step)

    def _write(self) -> None:
        if self.save_s > 0:
            fiber = self.loop.current
            assert fiber is not None
            fiber.sleep(self.mischief.random() * self.save_s)

    def server_clock(self) -> float:
        """The server's monotonic clock; it may stand still for a while, then jump."""
        return self.loop.time() + self.clock_offset_s

    def _watch(self, host: JobHost) -> None:
        real = host.machine.handle

        def handle(event: Event, now_s: float) -> Any:
            if isinstance(event, Ticked):
                self.checkers.check_staged(host, {call.caller for call in self.network.handling})
                self._check_calls()
            before = self.checkers.before(host)
            try:
                effects = real(event, now_s)
            except Refused as error:
                self.log("server", f"refuses {error.reason}:", event)
                self.checkers.refused(host, event, before)
                raise
            if self.trace is not None:
                self.log("server", event, "->", *effects)
            self.checkers.took(host, event, effects, now_s)
            return effects

        def fail(error: Exception, what: str, **_: object) -> None:
            violation = Violation(f"the job failed: {what}: {error!r}")
            violation.__cause__ = error
            self.loop.fail(violation)

        if self.scenario.mischief_per_s > 0:
            file = FailingFile(self.mischief.randrange(100))
            host.event_log = EventLog(Path("simulated"), file, 1 << 20)  # type: ignore[arg-type]
        host.machine.handle = handle  # type: ignore[method-assign]
        host.fail = fail  # type: ignore[method-assign]

    def _check_calls(self) -> None:
        """No call is in hand for ever, whatever its caller does or leaves undone."""
        since_s = min((call.began_s for call in self.network.handling), default=self.loop.time())
        age_s = self.loop.time() - since_s
        require(age_s <= CALL_S_MAX, f"a call has been in hand for {age_s:.1f} s")

    def _told(self, runtime: Runtime, method: Callable[..., Any]) -> Callable[..., Any]:
        """See each outcome as it leaves the server."""

        async def seen(request: Any) -> Any:
            answer = await method(request)
            response = pb.StepResponse.FromString(answer) if isinstance(answer, bytes) else answer
            if response.state == pb.PUSH_STATE_DONE:
                header = getattr(getattr(request, "message", request), "header", request)
                if getattr(header, "job", "") == JOB and hasattr(header, "epoch"):
                    self.checkers.answered(header.worker, header.epoch, response.outcome)
                    host = runtime.jobs[JOB]
                    account = host.machine.state.ledger.find(header.worker, header.epoch)
                    if account is not None and account.last_seq == response.outcome.seq and not account.pending:
                        self.checkers.check_bound(header.worker, header.epoch, host.machine.state.finished)
            return answer

        return seen

    def crash_server(self) -> None:
        """kill -9."""
        self.log("server", "crashes")
        if self.disk.running:  # also one that was about to serve
            self.keeping.serves()
        self._drop_server()
        self.loop.crash()

    def _drop_server(self) -> None:
        self.network.crash()
        if self.runtime is not None:
            self.runtime._threads.close()
        self.runtime = None

    async def stop_server(self) -> None:
        """SIGTERM, as Service.stop() does it."""
        runtime = self.runtime
        assert runtime is not None
        self.log("server", "ends")
        self._starting.cancel()
        runtime.freeze()
        self.disk.refused.clear()
        try:
            await runtime.save_all()
        except Refused:
            self.log("server", "could not save", *runtime.unsaved)
        if runtime.started:
            for name, host in runtime.jobs.items():
                if name in runtime.unsaved:
                    require(name in self.disk.refused, f"job {name} was not saved at the end, nothing was against it")
                elif host.ready.is_set():
                    self.keeping.ended(host)
        elif self.disk.running:
            self.keeping.serves()
        self.network.methods = None
        for call in list(self.network.handling):
            if call.task is not None:
                call.task.cancel()
        await runtime.close()
        self._drop_server()
        self.loop.crash(spared=asyncio.current_task())

    # --- the workers -----------------------------------------------------------------------------------------------

    def add_worker(self, name: str | None = None) -> SimulatedWorker:
        """A new process; of a new name unless one is given."""
        if name is None:
            name = f"w{self._names}"
            self._names += 1
        self.log(name, "starts")
        worker = SimulatedWorker(self, name)
        self.workers = [*(worker for worker in self.workers if not worker.over), worker]
        return worker

    def at_work(self) -> list[SimulatedWorker]:
        """Processes that are not over."""
        return [worker for worker in self.workers if not worker.over]

    def _look_after(self) -> None:
        """What an operator does: replace workers that are gone, notice the end."""
        step = len(self.checkers.history)
        if step >= (self.scenario.spec.steps_max or 0):
            self._calm()
            if not self.at_work():
                self.loop.stop()
                return
        else:
            if self.loop.time() > FAULTS_S_MAX:
                self._calm()
            names = {worker.name for worker in self.at_work() if not worker.leaving}
            for _ in range(self.scenario.workers - len(names)):
                self.add_worker()
        if self._is_paused() and all(operator.over for operator in self.operators):
            from tests.simulation.operators import Operator, resumes

            Operator(self, resumes)
        if self.loop.time() > FAULTS_S_MAX + PROGRESS_S_MAX:
            self.loop.fail(Violation(f"no progress: step {step}: {self._waiting_for()}"))
        self.loop.call_later(0.5, self._look_after)

    def _is_paused(self) -> bool:
        return self.runtime is not None and JOB in self.runtime.jobs and self.runtime.jobs[JOB].state_name == "PAUSED"

    def _calm(self) -> None:
        self.faulty = False
        self.network.weather = Weather()
        self.network.cut_off.clear()
        self.network.broken = self.network.stalled = 0.0
        self.disk_full = False
        self.disk.failing.clear()

    def _waiting_for(self) -> str:
        if self.runtime is None or JOB not in self.runtime.jobs:
            return "no server" if self.runtime is None else "no job"
        machine = self.runtime.jobs[JOB].machine
        return machine.waiting_for(self.server_clock()) or "nothing"

    # --- faults ----------------------------------------------------------------------------------------------------

    def _plan_fault(self) -> None:
        self.loop.call_later(self.dice.expovariate(self.scenario.faults_per_s), self._fault)

    def _fault(self) -> None:
        from tests.simulation.faults import FAULTS, OPERATIONS

        if not self.faulty:
            return
        self.dice.choice(FAULTS + OPERATIONS if self.scenario.operated else FAULTS)(self)
        self._plan_fault()

    def _plan_mischief(self) -> None:
        self.loop.call_later(self.mischief.expovariate(self.scenario.mischief_per_s), self._do_mischief)

    def _do_mischief(self) -> None:
        from tests.simulation.mischief import MISCHIEF

        if self.faulty or self.loop.time() < FAULTS_S_MAX / 2:
            self.mischief.choice(MISCHIEF)(self)
            self._plan_mischief()
