"""What the parameters must be: a plain loop over the contributions, kept for every step of the surviving history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from optimd_server.core.effects import RoundRecord
from optimdpb.specs import Async, ClipGlobalNorm, JobSpec

from tests.property.one_process import Contribution, OneProcess

Float32s = NDArray[np.float32]
f32 = np.float32


class Reference:
    """Parameters and slots after each step. A restart that lost something takes it back to where the snapshot was."""

    def __init__(self, spec: JobSpec, start: Float32s) -> None:
        clip_norm = spec.clip.norm_max if isinstance(spec.clip, ClipGlobalNorm) else None
        self._spec = spec
        self._plain = OneProcess(spec.layout, start, spec.optimizer, clip_norm)
        self._kept = [(self._plain.parameters.copy(), self._plain.slots.copy())]

    def parameters_at(self, step: int) -> Float32s:
        """After so many updates."""
        return self._kept[step][0]

    def restart(self, step: int) -> None:
        """Go on from the state at `step`."""
        parameters, slots = self._kept[step]
        self._plain.parameters, self._plain.slots = parameters.copy(), slots.copy()
        self._plain.count = step
        del self._kept[step + 1 :]

    def apply(self, record: RoundRecord, pushes: list[tuple[str, float, int, Float32s]]) -> Float32s:
        """The parameters after a round of these (worker, weight, base step, gradient), in any order."""
        model = self._spec.consistency
        if isinstance(model, Async):
            ((worker, _, base_step, gradient),) = pushes
            if model.delay_compensation is not None and base_step < record.step:
                moved = self._plain.parameters - self._kept[base_step][0]
                factor = np.clip(f32(1) + f32(model.delay_compensation) * (gradient * moved), f32(0), f32(2))
                gradient = gradient * factor
            if model.staleness_scale == "inverse":
                gradient = f32(1 / (1 + record.step - base_step)) * gradient
            parts = [Contribution(worker, 1.0, gradient)]
        else:
            parts = [Contribution(worker, weight, gradient) for worker, weight, _, gradient in pushes]
        self._plain.round(parts, record.learning_rate)
        self._kept.append((self._plain.parameters.copy(), self._plain.slots.copy()))
        return self._plain.parameters
