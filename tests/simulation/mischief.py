"""What programs, proxies and operators do wrong, one function each, beside the faults of faults.py."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.world import World


def nothing(world: World) -> None:
    """For comparison."""


def worker_is_interrupted(world: World) -> None:
    """Its program catches what the handler of a signal raises, and goes on with the same Worker."""
    if world.at_work():
        world.mischief.choice(world.at_work()).interrupt()


def worker_is_forgotten(world: World) -> None:
    """Its program drops the Worker without leaving or closing, and may make another one. Its process lives on."""
    if world.at_work():
        worker = world.mischief.choice(world.at_work())
        worker.forgetful = True
        if world.mischief.random() < 0.5:
            worker.interrupt()


def calls_are_broken(world: World) -> None:
    """A proxy, or a defect, answers calls with statuses that say nothing, whatever the server does."""
    world.network.broken = world.mischief.choice((0.1, 0.4))
    world.loop.call_later(world.mischief.random() * 3.0, setattr, world.network, "broken", 0.0)


MISCHIEF: tuple[Callable[[World], None], ...] = (
    worker_is_interrupted,
    worker_is_interrupted,
    worker_is_interrupted,
    worker_is_forgotten,
    calls_are_broken,
)
