"""Operators: processes that change the job while it trains, each with one thing to do, over the same bad network."""

from __future__ import annotations

from collections.abc import Callable

from optimd.range_test import start_request
from optimd.worker import Worker
from optimdpb.errors import Refused, ServerUnavailable
from optimdpb.specs import Constant, Linear, Schedule, Sequence

from tests.simulation.checkers import require
from tests.simulation.network import SimulatedTransport
from tests.simulation.process import Process
from tests.simulation.world import JOB, World

PATIENCE_S = 3.0
# What an operator may be told beside yes: the job is not there, deleted, over, in a range test, paused, or further on;
# the call broke several times; the disk failed.
REFUSALS = {
    *("UNKNOWN_JOB", "JOB_NOT_READY", "WRONG_STATE", "STEP_PASSED", "REVISION_MISMATCH", "INVALID_UPDATE"),
    *("INTERNAL", "JOB_DELETED", "STORAGE_FAILED"),
}


class Operator(Process):
    """Does its work once, trying again while the server is away."""

    def __init__(self, world: World, work: Callable[[Operator], None]) -> None:
        self.world = world
        world.operators = [*(operator for operator in world.operators if not operator.over), self]
        world.operators_started += 1
        self.name = f"o{world.operators_started}"
        super().__init__(world.loop, world.dice, lambda: work(self))

    def ask(self, act: Callable[[Worker], object], *, insist: bool = False) -> bool:
        """Whether the server said yes. insist: go on asking until it answers; the work of others depends on it."""
        transport = SimulatedTransport(self.world.network, self.world.loop, self.name, 8, lambda *_: None)
        while True:
            try:
                said = act(Worker(transport, self, JOB, None, PATIENCE_S))
                self.world.log(self.name, "is told", said)
                return True
            except ServerUnavailable:
                if not insist:
                    return False
            except Refused as error:
                require(error.reason in REFUSALS, f"{self.name} was refused: {error.reason} {error}")
                self.world.log(self.name, f"is refused: {error.reason} {error}")
                if not insist or error.reason == "WRONG_STATE":
                    return False
                self.sleep(0.2)

    def step_ahead(self) -> int | None:
        """No step, or one that is near."""
        dice = self.world.dice
        return None if dice.random() < 0.4 else len(self.world.checkers.history) + dice.randrange(-1, 6)


def changes_the_rate(operator: Operator) -> None:
    """Another schedule, and sometimes another again on top."""
    dice = operator.world.dice
    for _ in range(dice.choice((1, 1, 3))):
        schedule: Schedule = dice.choice(
            (Constant(0.05), Linear(0.08, 0.01, 60), Sequence([(40, Linear(0.0, 0.1, 30)), (5, 0.02)]))
        )
        revision = dice.choice((None, None, operator.world.checkers.books.revision))
        at_step = operator.step_ahead()
        operator.ask(
            lambda worker, schedule=schedule, at_step=at_step, revision=revision: worker.set_schedules(  # type: ignore[misc]
                {"lr": schedule}, at_step=at_step, expected_revision=revision
            )
        )


def pauses(operator: Operator) -> None:
    """Holds the job for a while. Whoever paused it resumes it, whatever became of the pause."""
    at_step = operator.step_ahead()
    operator.ask(lambda worker: worker.pause(at_step=at_step))
    operator.sleep(operator.world.dice.random() * 3.0)
    while operator.world.checkers.books.may_pause and operator.ask(lambda worker: worker.resume(), insist=True):
        operator.sleep(2.0)


def resumes(operator: Operator) -> None:
    """Lets a job go on that a crash took back to a pause."""
    operator.ask(lambda worker: worker.resume(), insist=True)


def tests_the_range(operator: Operator) -> None:
    """A range test, and sometimes its end before the end."""
    dice = operator.world.dice
    name, steps, sweep = f"{operator.name}-test", dice.choice((10, 15)), dice.choice(("exponential", "linear"))
    request = start_request(JOB, operator.name, name, 1e-3, 0.3, steps, sweep)
    started = operator.ask(lambda worker: worker._session.call("StartRangeTest", request))
    if started and dice.random() < 0.3:
        operator.sleep(dice.random())
        operator.ask(lambda worker: worker.resume())


def _starts(work: Callable[[Operator], None]) -> Callable[[World], None]:
    def fault(world: World) -> None:
        Operator(world, work)

    fault.__doc__ = work.__doc__
    return fault


somebody_changes_the_rate = _starts(changes_the_rate)
somebody_pauses = _starts(pauses)
somebody_tests_the_range = _starts(tests_the_range)
