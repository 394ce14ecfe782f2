"""A second job on the same server, with one worker in no hurry: what befalls the first job must not befall it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from optimd.worker import Worker
from optimdpb.errors import OptimdError
from optimdpb.specs import SGD, Async

from tests.simulation.network import SimulatedTransport
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

BYSTANDER = "bystander"
PATIENCE_S = 5.0
STEP_S = 1.0


class Bystander(Process):
    """Trains for as long as the run takes."""

    def __init__(self, world: World) -> None:
        self.world = world
        super().__init__(world.loop, world.mischief, self._train)

    def _train(self) -> None:
        world = self.world
        transport = SimulatedTransport(world.network, world.loop, BYSTANDER, 8, lambda *_: None)
        worker = Worker(transport, self, BYSTANDER, BYSTANDER, PATIENCE_S)
        gradient = {"w": np.ones(2, np.float32)}
        while True:
            try:
                worker.ensure_job(gradient, SGD(0.01), Async())
                worker.pull()
                while True:
                    self.sleep(self.jitter() * STEP_S)
                    worker.step(gradient)
            except OptimdError as error:
                world.log(BYSTANDER, f"begins again: {type(error).__name__} {error}")
                self.sleep(0.1)
