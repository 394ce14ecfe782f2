"""Worker processes: a client, a training loop around it, and what a user's program does when something goes wrong."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optimd.results import Parameters, StepResult
from optimd.worker import Worker
from optimdpb.errors import (
    EpochSuperseded,
    JobReplaced,
    OutcomeUnknown,
    PushesNotApplied,
    Refused,
    ServerUnavailable,
    WorkerSetAside,
)
from optimdpb.specs import JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from tests.simulation.checkers import Gradient, require
from tests.simulation.interrupts import Interrupted, Interruption
from tests.simulation.network import SimulatedTransport
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

JOB = "job"
PATIENCE_S = 8.0


@dataclass(frozen=True)
class Habits:
    """Of one program. stays: it goes on when the job has finished; trusts_its_own: does not pull what it uploaded."""

    spec: JobSpec
    if_exists: str = "resume"
    on_rejected: str = "ignore"
    stays: bool = False
    trusts_its_own: bool = False


class Outdated(Exception):
    """The job is not this program's any more."""


class SimulatedWorker(Process):
    """One worker process. `leaving`: it is to end in order; `failing`: with work left; `forgetful`: it is to drop its
    Worker as it is. habits: what its program does its own way.
    """

    def __init__(self, world: World, name: str, habits: Habits) -> None:
        self.world = world
        self.name = name
        self.habits = habits
        self.leaving = self.failing = False
        self.forgetful = False
        self._base_lineage = ""
        self._gradient = Gradient(0, b"", b"")
        self._parameters = b""
        self._joined = self._pulled = self._guarded = False
        super().__init__(world.loop, world.dice, self._train)

    def interrupt(self) -> None:
        """A signal, now or a few lines of the client further on; its handler raises."""
        dice = self.world.mischief
        if not self._guarded:
            return
        if dice.random() < 0.3:
            self.world.log(self.name, "is interrupted")
            self.program.interrupt(Interrupted())
            return
        lines = dice.choice((5, 50, 500))
        Interruption(
            self.program, dice.randrange(lines), lambda where: self.world.log(self.name, "is interrupted at", where)
        )

    def _train(self) -> None:
        world, goes_on = self.world, True
        while goes_on:
            transport = SimulatedTransport(world.network, world.loop, self.name, 8, self._sent)
            on_rejected = self.habits.on_rejected
            goes_on = self._use(Worker(transport, self, JOB, self.name, PATIENCE_S, on_rejected=on_rejected))
            if goes_on:
                goes_on = self._drop(transport)

    def _drop(self, transport: SimulatedTransport) -> bool:
        """Nothing refers to the Worker any more. Returns whether the program makes another one under its name."""
        self.forgetful = self._joined = False
        self._parameters = b""
        self.sleep(0.001)  # whoever interrupted it still has the exception, and so its frames
        if sys.exc_info()[1] is not None:
            # What a tracer raises at the end of a handler leaves, in 3.11, the exception handled for ever.
            self.world.loop.call_soon(self.kill)
            return False
        gc.collect()
        transport.forgotten = True
        self.world.log(self.name, "has dropped its Worker")
        if self.world.mischief.random() < 0.5:
            return False
        self.sleep(self.world.mischief.random() * 4.0)
        return True

    def _sent(self, header: pb.PushHeader, flat: NDArray[np.float32]) -> None:
        self._base_lineage = header.base_version.lineage
        self.world.sent(header, flat, self._gradient)

    def _use(self, worker: Worker) -> bool:
        """Train with one Worker. Returns whether it is dropped as it is, else it has come to its end."""
        self._guarded = True
        is_dropped = self._train_with(worker)
        self._guarded = False
        self.program.untrace()
        if not is_dropped:
            worker.close()  # when the garbage collector would do it is chance
        return is_dropped

    def _train_with(self, worker: Worker) -> bool:
        world = self.world
        while True:
            try:
                while not self.leaving and not self._some_steps(worker):
                    if self.forgetful:
                        return True
                worker._membership.leave(failed=self.failing)
            except Interrupted:
                # What a user's program does next, on the same Worker.
                self._joined, pulled = world.mischief.choice(((True, True), (True, False), (False, False)))
                self._pulled = pulled and self._parameters != b""
                if self.forgetful:
                    return True
            except (EpochSuperseded, WorkerSetAside) as error:
                world.log(self.name, f"ends: {type(error).__name__}")
                others = world.network.joins(self.name)
                require(isinstance(error, WorkerSetAside) or others > 1, f"{self.name} was fenced by itself")
                return False
            except Outdated as error:
                world.log(self.name, f"ends: {error}")
                return False
            else:
                return False

    def _some_steps(self, worker: Worker) -> bool:
        """Train until something goes wrong that a user's loop would catch. Returns whether the job is finished."""
        try:
            if not self._joined:
                self._begin(worker)
            while self._joined and not self.leaving and not self.forgetful:
                if not self._pulled:
                    self._take(worker.pull())
                self.sleep(self.world.dice.random() * self.world.scenario.compute_s)
                result = self._step(worker)
                if result is not None and result.finished and not self.habits.stays:
                    return True
        except (JobReplaced, PushesNotApplied) as error:
            self._told_of(error)
            return False
        except ServerUnavailable as error:
            self.world.log(self.name, f"gave up: {error}")
        except Refused as error:
            if isinstance(error, EpochSuperseded | WorkerSetAside):
                raise
            # A server that came back without the job; calls that broke several times.
            expected = error.reason in ("UNKNOWN_JOB", "JOB_NOT_READY", "INTERNAL")
            expected |= self.world.turnover.expects(self, error.reason)
            require(expected, f"{self.name} was refused: {error.reason} {error}")
            self.world.log(self.name, f"refused: {error.reason}")
            self.sleep(0.1)
            if self.world.turnover.is_outdated(self, error.reason):
                raise Outdated(error.reason) from error
            if error.reason == "INTERNAL" and self._parameters and self.world.mischief.random() < 0.7:
                return False
        except ValueError as error:
            # It was cut off with newer parameters on their way.
            require("to be pulled before" in str(error), str(error))
            self._pulled = False
            return False
        self._joined = False
        return False

    def _begin(self, worker: Worker) -> None:
        """As every worker's program does."""
        world = self.world
        start = world.ensure_job(worker, self.habits.spec, if_exists=self.habits.if_exists)
        self._joined, self._pulled = True, False
        if start.created and self.habits.trusts_its_own:
            # Who created the job has its parameters; a push says if it is too late for that.
            self._parameters, self._pulled = world.start.tobytes(), True

    def _told_of(self, error: JobReplaced | PushesNotApplied) -> None:
        """What a worker that is not to ignore it learns of its last push."""
        self.world.log(self.name, f"is told: {error}")
        require(self.habits.on_rejected == "raise", f"{self.name} was told what it did not ask for: {error}")
        if isinstance(error, JobReplaced):
            jobs = self.world.checkers
            require(jobs.job_of[self._base_lineage] < jobs.job, f"{self.name}: its job is there: {error}")
            self._pulled = False

    def _step(self, worker: Worker) -> StepResult | None:
        """One gradient; None if its outcome is not known."""
        world, dice = self.world, self.world.dice
        self._gradient = world.gradient(self._parameters)
        gradients = world.named(np.frombuffer(self._gradient.payload, np.float32))
        try:
            result = worker.step(gradients, weight=dice.choice((1.0, 8.0, 0.3)), loss=dice.random())
        except OutcomeUnknown as error:
            world.log(self.name, f"gave up: {error}")
            self._joined = dice.random() >= 0.5
            return None
        world.log(self.name, "told", result.status, result.reason, result.global_step)
        world.checkers.told(self._gradient, result.status)
        self._take(result.parameters)
        return result

    def _take(self, parameters: Parameters) -> None:
        self._parameters = b"".join(array.tobytes() for array in parameters.values())
        self._pulled = True
