"""The shared memory of one job: its parameters, and for each worker on this machine two gradients.

A worker's gradient buffer is the server's from the push that names it to that push's outcome, and the worker's
otherwise: nothing is locked, because the calls say who has it. Parameters are read in place only where no update can
come before the reader's own next push; everywhere else the worker has a copy, written while its call is answered.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from optimdpb.errors import Refused
from optimdpb.specs import JobSpec, Sync

from optimd_server.config import ServerConfig
from optimd_server.optimizers.kernels import Float32s
from optimd_server.state import SharedSegment

log = logging.getLogger(__name__)

GRADIENTS_PER_WORKER = 2


@dataclass(frozen=True)
class WorkerMemory:
    """What one epoch of a worker has. `copy`: None where it reads the job's own parameters."""

    gradients: tuple[SharedSegment, ...]
    copy: SharedSegment | None


class JobSharing:
    """Makes, finds and forgets shared memory.

    `parameters`: the job's own; None where there is none to share, and `why_not` in words.
    Forgotten memory is freed once nobody reads it any more, on either side.
    """

    def __init__(self, job: str, spec: JobSpec, config: ServerConfig) -> None:
        self._name = f"optimd:{job}"
        self._elements = spec.layout.elements
        model = spec.consistency
        self._reads_in_place = isinstance(model, Sync) and model.quorum is None and model.round_timeout_s is None
        self._workers: dict[tuple[str, int], WorkerMemory] = {}
        self.parameters: SharedSegment | None = None
        self.why_not = ""
        if not config.shared_memory:
            self.why_not = "the server makes no shared memory: it was told so"
        elif spec.layout.size_bytes <= config.inline_bytes_max:
            self.why_not = f"the model has at most {config.inline_bytes_max} bytes: they travel in the call itself"
        else:
            try:
                self.parameters = SharedSegment(self._name, self._elements, read_only=True, populate=False)
            except OSError as error:
                self.why_not = f"the server's machine has no memory to share: {error}"
                log.warning("job %s: %s", job, self.why_not)

    @property
    def vectors_per_worker(self) -> int:
        """Vectors of the size of the parameters that open() makes."""
        return GRADIENTS_PER_WORKER + (0 if self._reads_in_place else 1)

    @property
    def vectors(self) -> int:
        """Vectors that workers have now."""
        return len(self._workers) * self.vectors_per_worker

    @property
    def workers(self) -> int:
        """Workers that have memory now."""
        return len(self._workers)

    def make(self, worker: str) -> WorkerMemory:
        """Memory for one epoch; blocks while its pages are filled. Raises Refused(SHARED_MEMORY_UNAVAILABLE)."""
        name = f"{self._name}:{worker}"
        try:
            gradients = [SharedSegment(name, self._elements, read_only=False) for _ in range(GRADIENTS_PER_WORKER)]
            copy = None if self._reads_in_place else SharedSegment(name, self._elements, read_only=True)
        except OSError as error:
            message = f"the server's machine has no memory to share: {error}"
            raise Refused("SHARED_MEMORY_UNAVAILABLE", message) from error
        return WorkerMemory(tuple(gradients), copy)

    def keep(self, worker: str, epoch: int, memory: WorkerMemory) -> None:
        """It is this epoch's from here on; what it had is forgotten."""
        self._workers[worker, epoch] = memory

    def has(self, worker: str, epoch: int) -> bool:
        """Whether the epoch has memory."""
        return (worker, epoch) in self._workers

    def forget(self, worker: str, epoch: int) -> None:
        """The epoch is over; harmless if it has none."""
        self._workers.pop((worker, epoch), None)

    def forget_all(self) -> None:
        """No worker has any; the job keeps its own."""
        self._workers.clear()

    def gradient(self, worker: str, epoch: int, number: int) -> Float32s:
        """Buffer `number`, from 1, of an epoch. Raises Refused(SHARED_MEMORY_GONE)."""
        memory = self._workers.get((worker, epoch))
        if memory is None or not 1 <= number <= len(memory.gradients):
            has = len(memory.gradients) if memory is not None else 0
            raise Refused(
                "SHARED_MEMORY_GONE",
                f"expected one of the {has} shared buffers of worker {worker!r}, epoch {epoch}, got {number}",
                worker=worker,
                epoch=epoch,
                shared_buffer=number,
            )
        return memory.gradients[number - 1].values

    def copy_of(self, worker: str, epoch: int) -> Float32s | None:
        """Where the epoch's copy of the parameters goes."""
        memory = self._workers.get((worker, epoch))
        return None if memory is None or memory.copy is None else memory.copy.values
