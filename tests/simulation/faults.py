"""What can go wrong, one function each: gets the world, does its harm, and sees that it ends."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.network import Weather
from tests.simulation.operators import somebody_changes_the_rate, somebody_pauses, somebody_tests_the_range
from tests.simulation.world import JOB, World


def downtime(world: World) -> None:
    world.loop.call_later(world.dice.random() * 3.0, world.start_server)


def server_crashes(world: World) -> None:
    """kill -9 and a new process later."""
    if world.runtime is not None:
        world.crash_server()
        downtime(world)


def server_restarts(world: World) -> None:
    """SIGTERM and a new process later. Killed if it takes too long."""
    if world.runtime is None or world.runtime.draining:
        return

    async def restart() -> None:
        await world.stop_server()
        downtime(world)

    world.loop.create_task(restart())


def snapshot(world: World) -> None:
    """An operator saves the job."""
    world.loop.create_task(world.save(JOB))


def disk_fills(world: World) -> None:
    """No room for a while."""
    world.disk_full = True
    world.loop.call_later(world.dice.random() * 3.0, setattr, world, "disk_full", False)


def clock_jumps(world: World) -> None:
    """The server's process stands still, as when its machine is paused: its clock goes on without it."""
    world.clock_offset_s += world.dice.random() * 30.0


def partition(world: World) -> None:
    """Some workers cannot reach the server for a while."""
    cut_off = {worker.name for worker in world.at_work() if world.dice.random() < 0.5}
    world.log("network", f"cuts off {sorted(cut_off)}")
    world.network.cut_off |= cut_off
    world.loop.call_later(world.dice.random() * 6.0, world.network.cut_off.difference_update, cut_off)


def weather_changes(world: World) -> None:
    """Every call is in danger for a while."""
    dice = world.dice
    world.network.weather = Weather(
        latency_s=dice.choice((0.001, 0.01, 0.1)),
        slow=dice.choice((0.0, 0.1)),
        slow_s=dice.choice((0.5, 5.0)),
        request_lost=dice.choice((0.0, 0.1, 0.3)),
        reply_lost=dice.choice((0.0, 0.1, 0.3)),
        doubled=dice.choice((0.0, 0.2)),
        cut=dice.choice((0.0, 0.1)),
    )
    world.loop.call_later(dice.random() * 4.0, setattr, world.network, "weather", Weather())


def worker_is_killed(world: World) -> None:
    """kill -9; a new process of the same name or, later, of another."""
    if not world.at_work():
        return
    worker = world.dice.choice(world.at_work())
    world.log(worker.name, "is killed")
    worker.kill()
    if world.dice.random() < 0.5:
        world.loop.call_later(world.dice.random(), world.add_worker, worker.name)


def worker_is_stopped(world: World) -> None:
    """SIGSTOP, often for longer than its lease, and SIGCONT."""
    if world.at_work():
        worker = world.dice.choice(world.at_work())
        world.log(worker.name, "is stopped")
        worker.freeze(world.dice.random() * 6.0)


def worker_is_doubled(world: World) -> None:
    """A second process under the name of one that runs."""
    if world.at_work():
        world.add_worker(world.dice.choice(world.at_work()).name)


def worker_comes(world: World) -> None:
    """One more."""
    if len(world.at_work()) < 2 * world.scenario.workers + 1:
        world.add_worker()


def worker_goes(world: World) -> None:
    """One leaves in order."""
    if world.at_work():
        world.dice.choice(world.at_work()).leaving = True


FAULTS: tuple[Callable[[World], None], ...] = (
    server_crashes,
    server_restarts,
    snapshot,
    snapshot,
    disk_fills,
    clock_jumps,
    partition,
    weather_changes,
    weather_changes,
    worker_is_killed,
    worker_is_stopped,
    worker_is_doubled,
    worker_comes,
    worker_goes,
)
OPERATIONS: tuple[Callable[[World], None], ...] = (
    somebody_changes_the_rate,
    somebody_pauses,
    somebody_tests_the_range,
)
