"""What becomes of whole jobs: deleted and made anew, by the same program or another, made longer, left by workers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from optimd.worker import Worker
from optimdpb.errors import OptimdError
from optimdpb.specs import JobSpec

from tests.simulation.network import SimulatedTransport
from tests.simulation.process import Process
from tests.simulation.scenario import FAULTS_S_MAX, ROUNDS, another_spec
from tests.simulation.workers import JOB, PATIENCE_S, Habits, SimulatedWorker

if TYPE_CHECKING:
    from tests.simulation.operators import Operator
    from tests.simulation.world import World

JOBS_MAX = 3
LONGER_MAX = 2
# So long after another program was brought out the processes of the one before are killed.
OUTDATED_S = 6.0


class Turnover:
    """Of one run, with dice of its own: what else happens stays the same without it.

    spec: of the program that new worker processes run.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._per_s = world.scenario.turnover_per_s
        self.dice = random.Random(f"turnover {world.scenario.seed}")
        self.spec = world.scenario.spec
        self._few: tuple[int, float] = (0, 0.0)
        self._longer_left = LONGER_MAX
        self.jobs_left = JOBS_MAX
        self._tries = 0
        self._is_over = False

    def begin(self) -> None:
        """Something comes, now and then."""
        if self._per_s > 0:
            if self.dice.random() < 0.5:
                self.fail_a_first_try()
            self._plan()

    def _plan(self) -> None:
        self._world.loop.call_later(self.dice.expovariate(self._per_s), self._come)

    def _come(self) -> None:
        world = self._world
        if self._is_over or world.loop.time() > FAULTS_S_MAX:
            return
        self.dice.choice(TURNOVER)(world)
        self._plan()

    def habits(self) -> Habits:
        """Of the next process."""
        dice = self.dice
        if self._per_s == 0:
            return Habits(self.spec)
        return Habits(
            self.spec,
            if_exists=dice.choice(("resume",) * 8 + ("error",)),
            on_rejected=dice.choice(("ignore", "warn", "raise", "raise")),
            stays=dice.random() < 0.3,
            trusts_its_own=dice.random() < 0.5,
        )

    def wanted(self) -> int:
        """Worker processes that there should be now."""
        world = self._world
        workers, until_s = self._few
        return workers if world.loop.time() < until_s else world.scenario.workers

    def want(self, workers: int, seconds: float) -> None:
        """Fewer for a while."""
        self._few = workers, self._world.loop.time() + seconds

    def expects(self, worker: SimulatedWorker, reason: str) -> bool:
        """Whether a worker may be refused for this. One that finds another program's job insists on its own."""
        if self._per_s == 0:
            return False
        if reason == "JOB_MISMATCH":
            worker.habits = dataclasses.replace(worker.habits, if_exists="replace")
        if reason == "WRONG_STATE":
            return worker.habits.if_exists != "resume"
        return reason in ("JOB_DELETED", "JOB_MISMATCH", "REVISION_MISMATCH", "STORAGE_FAILED", "NOT_UPLOADER")

    def is_outdated(self, worker: SimulatedWorker, reason: str) -> bool:
        """Whether the program has nothing more to do: another one was brought out, or what it insists on is not so."""
        return reason == "WRONG_STATE" or (
            worker.habits.spec != self.spec and reason in ("JOB_DELETED", "JOB_MISMATCH")
        )

    def bring_out(self, spec: JobSpec) -> None:
        """Another program: the processes of the one before are told to end, and killed later."""
        world = self._world
        self.spec = spec
        for worker in world.at_work():
            worker.leaving, worker.failing = True, self.dice.random() < 0.5
        world.loop.call_later(OUTDATED_S, self.kill_outdated)

    def kill_outdated(self) -> None:
        """Workers of a program of before, which may wait for each other."""
        for worker in self._world.at_work():
            if worker.habits.spec != self.spec:
                self._world.log(worker.name, "is killed: its program is outdated")
                worker.kill()

    def goes_on(self) -> bool:
        """The job has finished: whether somebody makes it longer."""
        from tests.simulation.operators import Operator

        world = self._world
        if self._per_s == 0:
            return False
        if not all(operator.over for operator in world.operators):
            return True
        missing = ROUNDS - world.checkers.applied
        if missing <= 0 and (self._longer_left <= 0 or self.dice.random() < 0.5):
            for worker in world.at_work():
                worker.leaving = True
            self._longer_left, self._is_over = 0, True
            return False
        self._longer_left -= 1
        more = max(missing, self.dice.choice((1, 5, 20)))
        if self.dice.random() < 0.3 and world.faulty:
            from tests.simulation.faults import server_crashes, server_restarts

            self.dice.choice((server_crashes, server_restarts))(world)
        Operator(world, lambda operator: makes_it_longer(operator, more))
        return True

    def fail_a_first_try(self) -> None:
        """A process that would make the job does not come to its end."""
        self._tries += 1
        spec = (
            another_spec(self.spec, self._world.scenario.workers, self.dice) if self.dice.random() < 0.5 else self.spec
        )
        FirstTry(self._world, f"f{self._tries}", spec)


class FirstTry(Process):
    """Uploads NaN, or is killed somewhere on the way."""

    def __init__(self, world: World, name: str, spec: JobSpec) -> None:
        self._world, self._name, self._spec = world, name, spec
        super().__init__(world.loop, world.turnover.dice, self._try)
        if world.turnover.dice.random() < 0.7:
            world.loop.call_later(world.turnover.dice.random() * 0.3, self.kill)

    def _try(self) -> None:
        world = self._world
        transport = SimulatedTransport(world.network, world.loop, self._name, 8, lambda *_: None)
        worker = Worker(transport, self, JOB, self._name, PATIENCE_S)
        start = np.full_like(world.start, np.nan)
        spec = self._spec
        try:
            worker.ensure_job(world.named(start), spec.optimizer, spec.consistency, steps_max=spec.steps_max)
        except OptimdError as error:
            world.log(self._name, f"gives up: {type(error).__name__} {error}")
        worker.close()


def makes_it_longer(operator: Operator, more: int) -> None:
    """So many steps more than it has made, once it has finished."""
    checkers = operator.world.checkers
    if checkers.books.finished(len(checkers.history)):
        operator.ask(lambda worker: worker.set_steps(len(checkers.history) + more))


def moves_the_end(operator: Operator) -> None:
    """Nearer or further."""
    step, more = len(operator.world.checkers.history), operator.world.turnover.dice.choice((0, 1, 3, 10, 60))
    operator.ask(lambda worker: worker.set_steps(step + more))


def deletes(operator: Operator) -> None:
    """The job, whatever it does now."""
    with_snapshots = operator.world.turnover.dice.random() < 0.3
    operator.ask(lambda worker: worker.delete_job(with_snapshots=with_snapshots))


def _operate(world: World, work: Callable[[Operator], None]) -> None:
    from tests.simulation.operators import Operator

    Operator(world, work)


def the_end_is_moved(world: World) -> None:
    """An operator changes steps_max."""
    _operate(world, moves_the_end)


def job_is_deleted(world: World) -> None:
    """Its workers make it anew, or another program does; now and then somebody has begun to and gone."""
    turnover = world.turnover
    if turnover.jobs_left == 0:
        return
    turnover.jobs_left -= 1
    if turnover.dice.random() < 0.4:
        turnover.bring_out(another_spec(turnover.spec, world.scenario.workers, turnover.dice))
    _operate(world, deletes)
    if turnover.dice.random() < 0.5:
        world.loop.call_later(turnover.dice.random() * 0.2, turnover.fail_a_first_try)


def run_is_begun_anew(world: World) -> None:
    """All workers end, in order or not; a program comes that insists on a job of its own."""
    turnover = world.turnover
    if turnover.jobs_left == 0:
        return
    turnover.jobs_left -= 1
    for worker in world.at_work():
        if turnover.dice.random() < 0.5:
            worker.leaving = True
        else:
            worker.kill()
    if turnover.dice.random() < 0.5:
        turnover.spec = another_spec(turnover.spec, world.scenario.workers, turnover.dice)
    world.loop.call_later(OUTDATED_S, turnover.kill_outdated)
    turnover.want(1, 4.0)
    worker = world.add_worker()
    worker.habits = dataclasses.replace(worker.habits, if_exists="replace")


def snapshot_and_delete(world: World) -> None:
    """Somebody saves the job while somebody else deletes it."""
    world.loop.create_task(world.save(JOB))
    job_is_deleted(world)


def data_runs_out(world: World) -> None:
    """Some workers leave in order, some by an error; nobody takes their places for a while."""
    turnover = world.turnover
    workers = world.at_work()
    going = turnover.dice.sample(workers, turnover.dice.randint(1, len(workers))) if workers else []
    for worker in going:
        worker.leaving, worker.failing = True, turnover.dice.random() < 0.3
    turnover.want(len(workers) - len(going), turnover.dice.choice((1.0, 4.0)))


TURNOVER: tuple[Callable[[World], None], ...] = (
    the_end_is_moved,
    job_is_deleted,
    snapshot_and_delete,
    run_is_begun_anew,
    data_runs_out,
    data_runs_out,
    data_runs_out,
)
