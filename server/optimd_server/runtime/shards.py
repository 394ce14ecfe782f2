"""The shards of one job in this process, addressed as one flat vector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray
from optimdpb import encodings
from optimdpb.specs import Async, JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.effects import Apply, Contribution, Prepare
from optimd_server.optimizers import Plan
from optimd_server.optimizers.kernels import Float32s, Float64s
from optimd_server.state import Claim, Shard, SharedGradient, StagedGradient, piece_bounds, split_evenly
from optimd_server.state.bulk import RunOnThreads, copy_on
from optimd_server.state.shard import Gradient, slab
from optimd_server.state.staging import ChunkedVector
from optimd_server.storage import ShardImage, vector_names


class ShardGroup:
    """Shards in order of elements. prepare() and apply() block; the rest belongs to the event loop.

    `staged`: the gradient of each (worker, epoch), whole or still coming in. memory: zeros to keep all parameters in;
    None for memory of the shards' own.
    """

    def __init__(
        self,
        spec: JobSpec,
        plan: Plan,
        shard_count: int,
        threads_max: int,
        chunk_bytes_max: int,
        memory: Float32s | None = None,
    ) -> None:
        bounds = split_evenly(piece_bounds(spec.layout), shard_count)
        self.shards = [Shard(plan, spec.layout, part, threads_max, _delay_of(spec), memory) for part in bounds]
        self._chunk_bytes_max = chunk_bytes_max
        self._vector_names = vector_names(spec)
        self.staged: dict[tuple[str, int], Claim] = {}
        # Of gradients in blocks of int8, which are cut by no shard's border.
        self._payloads: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._free_payloads: list[NDArray[np.uint8]] = []

    def upload_vector(self) -> ChunkedVector:
        """Where the initial parameters go."""
        return ChunkedVector([shard.parameters for shard in self.shards], self._chunk_bytes_max)

    def stage(self, worker: str, epoch: int, dtype: DTypeLike = np.float32) -> StagedGradient:
        """Start to stage a gradient; an unfinished one of the same epoch is closed.

        dtype: float32, uint16 for bfloat16, uint8 for blocks of int8. Raises MemoryError, having staged nothing.
        """
        self.drop(worker, epoch)
        try:
            parts = self._room_for(worker, epoch, dtype)
        except BaseException:
            self.drop(worker, epoch)  # what some of the shards have made already
            raise
        staged = StagedGradient(worker, epoch, parts, self._chunk_bytes_max)
        self.staged[worker, epoch] = staged
        return staged

    def _room_for(self, worker: str, epoch: int, dtype: DTypeLike) -> Sequence[Gradient | NDArray[np.uint8]]:
        if dtype != np.uint8:
            return [shard.stage(worker, epoch, dtype) for shard in self.shards]
        payload = self._free_payloads.pop() if self._free_payloads else self._payload()
        self._payloads[worker, epoch] = payload
        for shard in self.shards:
            shard.adopt_blocks(worker, epoch, payload)
        return [payload]

    def adopt(self, worker: str, epoch: int, values: Float32s) -> SharedGradient:
        """Stage a gradient where it lies; what was staged of the same epoch is closed."""
        self.drop(worker, epoch)
        for shard in self.shards:
            shard.adopt(worker, epoch, values)
        adopted = SharedGradient(worker, epoch, values)
        self.staged[worker, epoch] = adopted
        return adopted

    def _payload(self) -> NDArray[np.uint8]:
        payload_bytes = encodings.payload_bytes(pb.ENCODING_INT8_BLOCK, self.shards[-1].element_stop)
        return slab(-(-payload_bytes // 4)).view(np.uint8)[:payload_bytes]

    @property
    def buffers(self) -> int:
        """Gradients that there is memory for: staged, or free for reuse. Those of int8 count in full."""
        return self.shards[0].buffers + len(self._payloads) + len(self._free_payloads)

    def adopted(self) -> list[tuple[str, int]]:
        """Epochs whose gradient lies in shared memory."""
        return [key for key, claim in self.staged.items() if isinstance(claim, SharedGradient)]

    def has_buffer(self, worker: str, epoch: int, dtype: DTypeLike) -> bool:
        """Whether staging for this epoch takes no new memory."""
        free = len(self._free_payloads) if dtype == np.uint8 else self.shards[0].free_buffers
        return (worker, epoch) in self.staged or free > 0

    def trim(self) -> None:
        """Give buffers that wait for reuse back to the system."""
        self._free_payloads.clear()
        for shard in self.shards:
            shard.trim()

    def free(self) -> None:
        """Forget everything but parameters and slots; no command may be on its way, and none comes any more."""
        for worker, epoch in list(self.staged):
            self.drop(worker, epoch)
        self._free_payloads.clear()
        for shard in self.shards:
            shard.free()

    def drop(self, worker: str, epoch: int) -> None:
        """Forget what the epoch has staged."""
        self._close(worker, epoch)
        payload = self._payloads.pop((worker, epoch), None)
        if payload is not None:
            self._free_payloads.append(payload)
        for shard in self.shards:
            shard.drop(worker, epoch)

    def _close(self, worker: str, epoch: int) -> None:
        staged = self.staged.pop((worker, epoch), None)
        if staged is not None:
            staged.close()

    def prepare(self, command: Prepare, run: RunOnThreads) -> Float64s:
        """Sums over the pieces of the layout, in order; see Shard.prepare."""
        return np.concatenate([shard.prepare(command, run) for shard in self.shards], axis=1)

    @functools.cached_property
    def trains_all(self) -> bool:
        """Whether every element is trained: no buffers, nothing frozen."""
        return all(shard.trains_all for shard in self.shards)

    def foresight(
        self, parts: tuple[Contribution, ...], scanned: Sequence[int]
    ) -> Callable[[RunOnThreads], list[float]]:
        """What scans some of these gradients and reduces them all, in one pass; see Shard.foresight."""
        works = [shard.foresight(parts, scanned) for shard in self.shards]
        return lambda run: [float(largest) for largest in np.stack([work(run) for work in works]).max(axis=0)]

    def foreseen(self, step: int, parts: tuple[Contribution, ...]) -> None:
        """See Shard.foreseen."""
        for shard in self.shards:
            shard.foreseen(step, parts)

    def make_room(self, command: Apply) -> None:
        """Take all memory that apply() needs, so that it fails before anything has changed. Raises MemoryError."""
        for shard in self.shards:
            shard.make_room(command)

    def apply(self, command: Apply, run: RunOnThreads) -> bool:
        """Move every shard from command.step to command.step + 1. Returns whether every parameter is finite."""
        finite = True
        for shard in self.shards:
            finite &= shard.apply(command, run)
        return finite

    def keep(self) -> bool:
        """Put the state of every shard aside; False, with nothing put aside, if there is no memory for it."""
        try:
            for shard in self.shards:
                shard.keep()
        except BaseException as error:
            for shard in self.shards:
                shard.drop_kept()
            if isinstance(error, MemoryError):
                return False
            raise
        return True

    def put_back(self, step: int) -> None:
        """The state of every shard is again as keep() found it, at `step`."""
        for shard in self.shards:
            shard.put_back(step)

    def each_chunk(self, take: Callable[[int, Float32s], None]) -> None:
        """Call take(element, values) for consecutive runs of the parameters, each at most half a chunk's bytes."""
        elements_max = self._chunk_bytes_max // 2 // 4
        for shard in self.shards:
            for start in range(0, shard.elements, elements_max):
                values = shard.parameters[start : start + elements_max]
                take(shard.element_start + start, values)

    def copy_parameters(self, target: Float32s, run: RunOnThreads) -> None:
        """All parameters into a vector, on threads."""
        for shard in self.shards:
            copy_on(target[shard.element_start : shard.element_stop], shard.parameters, run)

    def flat_parameters(self) -> Float32s:
        """A copy of all parameters."""
        return np.concatenate([shard.parameters for shard in self.shards])

    def flat_slots(self) -> Float32s:
        """A copy of all slots, (slot, n)."""
        return np.concatenate([shard.slots for shard in self.shards], axis=1)

    def images(self, copy: bool) -> list[ShardImage]:
        """Everything, shard by shard; without a copy it is good as long as nothing is updated."""
        return [
            ShardImage(
                shard.element_start,
                shard.element_stop,
                dict(
                    zip(
                        self._vector_names, (vector.copy() if copy else vector for vector in shard.vectors), strict=True
                    )
                ),
            )
            for shard in self.shards
        ]

    def load(self, images: Sequence[ShardImage], step: int) -> None:
        """Take over saved vectors, however they were cut, as the state at `step`."""
        for shard in self.shards:
            for image in images:
                start, stop = max(shard.element_start, image.start), min(shard.element_stop, image.stop)
                if start >= stop:
                    continue
                for name, vector in zip(self._vector_names, shard.vectors, strict=True):
                    part = image.vectors[name][start - image.start : stop - image.start]
                    vector[start - shard.element_start : stop - shard.element_start] = part
            shard.step = step

    @functools.cached_property
    def size_bytes(self) -> int:
        """Bytes of the parameters."""
        return sum(shard.parameters.nbytes for shard in self.shards)


def _delay_of(spec: JobSpec) -> tuple[float, int] | None:
    """(lambda, versions kept) of a job's delay compensation."""
    model = spec.consistency
    if not isinstance(model, Async) or model.delay_compensation is None:
        return None
    return model.delay_compensation, model.versions_kept
