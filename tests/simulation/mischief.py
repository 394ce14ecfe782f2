"""What programs, proxies and operators do wrong, one function each, beside the faults of faults.py."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.bystander import BYSTANDER
from tests.simulation.faults import server_restarts
from tests.simulation.world import JOB, World


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


def streams_stall(world: World) -> None:
    """Pushes stop in their middle and go no further; their workers' heartbeats do."""
    world.network.stalled = world.mischief.choice((0.1, 0.5))
    world.loop.call_later(world.mischief.random() * 3.0, setattr, world.network, "stalled", 0.0)


def save_is_given_up(world: World) -> None:
    """Whoever asked for a snapshot goes away while it is written; somebody else asks for one."""
    jobs = (JOB, JOB, BYSTANDER)
    world.save_s = world.mischief.choice((0.2, 2.0))
    task = world.loop.create_task(world.save(world.mischief.choice(jobs)))
    world.loop.call_later(world.mischief.random() * world.save_s, task.cancel)
    if world.mischief.random() < 0.5:
        world.loop.call_later(
            world.mischief.random() * world.save_s,
            lambda: world.loop.create_task(world.save(world.mischief.choice(jobs))),
        )


def saves_of_a_job_fail(world: World) -> None:
    """For a while, and not those of the other; sometimes while a server ends."""
    job = world.mischief.choice((JOB, BYSTANDER))
    world.disk.failing.add(job)
    world.loop.call_later(world.mischief.random() * 6.0, world.disk.failing.discard, job)
    if world.mischief.random() < 0.5:
        server_restarts(world)


def starts_are_in_vain(world: World) -> None:
    """A server ends in order, and the next ones end before they serve: a port in use, or a signal."""
    if world.runtime is None or world.runtime.draining or not world.runtime.started:
        return
    server_restarts(world)
    world.starts_in_vain = world.mischief.choice((1, 2))


MISCHIEF: tuple[Callable[[World], None], ...] = (
    worker_is_interrupted,
    worker_is_interrupted,
    worker_is_interrupted,
    worker_is_forgotten,
    calls_are_broken,
    streams_stall,
    save_is_given_up,
    saves_of_a_job_fail,
    starts_are_in_vain,
)
