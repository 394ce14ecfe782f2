"""One simulated run: a server that crashes and comes back, workers that come and go, an operator, bad weather."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimd.creation import JobStart
from optimd.worker import Worker
from optimd_server.runtime import Runtime
from optimdpb.errors import Refused
from optimdpb.specs import JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from tests.simulation.bystander import Bystander
from tests.simulation.checkers import Checkers, Gradient, Violation, require
from tests.simulation.disk import SimulatedDisk, SimulatedStore
from tests.simulation.keeping import Keeping
from tests.simulation.loop import SimulatedLoop, Stuck
from tests.simulation.network import Network, Weather
from tests.simulation.process import Process
from tests.simulation.scenario import FAULTS_S_MAX, LEASE_S, TICK_S, Scenario
from tests.simulation.turnover import Turnover
from tests.simulation.watch import methods_told, watch
from tests.simulation.workers import JOB, SimulatedWorker

__all__ = ["JOB", "World"]

# A run that is not over so long after the last fault is stuck.
PROGRESS_S_MAX = 600.0


class World:
    """Everything of one run. run() raises Violation."""

    def __init__(self, scenario: Scenario, *, trace: bool = False) -> None:
        self.scenario = scenario
        self.dice = random.Random(f"world {scenario.seed}")
        # For what programs and proxies do wrong: what else happens stays the same without it.
        self.mischief = random.Random(f"mischief {scenario.seed}")
        # For jobs that are deleted, made anew, and made longer.
        self.turnover = Turnover(self)
        self.loop = SimulatedLoop(lambda: self.dice.random() * 0.05)
        self.network = Network(self.loop, self.dice)
        self.keeping = Keeping()
        self.disk = SimulatedDisk(lambda: self.disk_full, self._write, self.keeping.removed)
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

    def ensure_job(self, worker: Worker, spec: JobSpec, **options: Any) -> JobStart:
        """As every worker's program begins."""
        return worker.ensure_job(
            self.named(self.start),
            spec.optimizer,
            spec.consistency,
            clip=spec.clip,
            steps_max=spec.steps_max,
            rejections_max=spec.rejections_max,
            **options,
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
        self.turnover.begin()

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
        watch(self, runtime)
        host = runtime.jobs.get(JOB)
        if host is None:
            self.log("server", "starts with nothing")
            self.checkers.over()
        else:
            self.log("server", f"starts, {'clean' if clean else 'after a crash'}")
            self.checkers.restarted(host, clean)
        self.network.methods = methods_told(self, runtime)

    async def save(self, job: str) -> None:
        """An operator saves a job."""
        runtime = self.runtime
        if runtime is None or job not in runtime.jobs:
            return
        host = runtime.jobs[job]
        step = host.machine.version.step
        try:
            path = await runtime.save(host)
        except Refused as error:
            self.log("operator", f"no snapshot: {error.reason}")
            return
        if runtime.jobs.get(job) is host:
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
        worker = SimulatedWorker(self, name, self.turnover.habits())
        self.workers = [*(worker for worker in self.workers if not worker.over), worker]
        return worker

    def at_work(self) -> list[SimulatedWorker]:
        """Processes that are not over."""
        return [worker for worker in self.workers if not worker.over]

    def _look_after(self) -> None:
        """What an operator does: replace workers that are gone, notice the end."""
        step = len(self.checkers.history)
        is_finished = self.checkers.books.finished(step)
        if self.loop.time() > FAULTS_S_MAX:
            self._calm()
        if is_finished and not self.turnover.goes_on():
            self._calm()
            if not self.at_work():
                self.loop.stop()
                return
        elif not is_finished:
            names = {worker.name for worker in self.at_work() if not worker.leaving}
            for _ in range(self.turnover.wanted() - len(names)):
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
