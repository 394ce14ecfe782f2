"""Trajectories of torch and optax in float64, kept in golden.json: they check every rule where neither is installed.

`python -m tests.conformance.optimizers.golden` makes the file anew; it needs torch and optax. A rule that neither has
is computed by its equation, and the file says so.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance.optimizers.peers import Float32s, by_equation, by_library, gradients_of
from tests.conformance.optimizers.rows import ROWS, Row

PATH = Path(__file__).with_name("golden.json")
ELEMENTS = 5
CHECKPOINTS = (1, 2, 10, 100, 300)
SETS = 3


def inputs(row: Row, number: int) -> tuple[Any, Float32s, list[Float32s]]:
    """Specification, start and gradients of one of a row's trajectories."""
    rng = np.random.default_rng([7, number, *row.name.encode()])
    spec, start = row.draw(rng), rng.standard_normal(ELEMENTS).astype(np.float32)
    if number == 0 and getattr(spec, "eps", 0.0) > 0.0:
        spec = dataclasses.replace(spec, eps=0.03)  # so large that its place shows
    return spec, start, gradients_of(rng, CHECKPOINTS[-1], ELEMENTS)


def trajectory(row: Row, number: int) -> dict[str, Any]:
    """Who computed it, and the parameters after each checkpoint's number of updates."""
    spec, start, gradients = inputs(row, number)
    library = (row.torch and f"torch {row.torch[0]}") or (row.optax and f"optax {row.optax[0]}")

    def after(count: int) -> NDArray[np.float64]:
        if not library:
            return by_equation(row, spec, start, gradients[:count], np.float64)
        parameters = by_library(row, spec, start, gradients[:count], np.float64)
        assert parameters is not None, f"{library} is not installed"
        return parameters

    points = {str(count): after(count).tolist() for count in CHECKPOINTS}
    return {"by": library or "the equation", "checksum": float(np.sum(gradients, dtype=np.float64)), "points": points}


def main() -> None:
    """Write the file."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "optax", "jax", "numpy")}
    rules = {row.name: [trajectory(row, number) for number in range(SETS)] for row in ROWS}
    PATH.write_text(json.dumps({"versions": versions, "rules": rules}, indent=1) + "\n")


if __name__ == "__main__":
    main()
