"""Parameters of the last few versions, for whoever must know what a stale gradient was taken at."""

from __future__ import annotations

import numpy as np
from optimdpb.errors import Refused

from optimd_server.optimizers.kernels import Float32s


class PastVersions:
    """At most `kept` vectors of `elements`, the oldest making room. Memory is taken as versions come, then reused."""

    def __init__(self, kept: int, elements: int) -> None:
        self._kept = kept
        self._elements = elements
        self._vectors: dict[int, Float32s] = {}
        self._spare: Float32s | None = None

    def make_room(self) -> None:
        """Take the memory for the next version, unless an old one makes room. Raises MemoryError."""
        if self._spare is None and len(self._vectors) < self._kept:
            self._spare = np.empty(self._elements, np.float32)

    def keep(self, step: int, parameters: Float32s) -> None:
        """Copy the parameters as they are at `step`, larger than any before."""
        self.make_room()
        vector, self._spare = self._spare, None
        if vector is None:
            vector = self._vectors.pop(min(self._vectors))
        np.copyto(vector, parameters)
        self._vectors[step] = vector

    def at(self, step: int) -> Float32s:
        """The vector itself, not to be changed. Raises Refused(INTERNAL) if not kept: the core asks for none such."""
        vector = self._vectors.get(step)
        if vector is None:
            raise Refused("INTERNAL", f"expected parameters of one of steps {sorted(self._vectors)}, got {step}")
        return vector

    def clear(self) -> None:
        """Forget all."""
        self._vectors.clear()
        self._spare = None
