"""One learning-rate range test of a job.

wanted ─no update on its way─► keeping ─Kept─► sweeping ─last step, divergence or stop─► ending
ending ─no update on its way─► putting back ─PutBack─► done

While it lasts the rounds go on as ever, under the rate of the sweep; in between they stand still. At its end everything
that its updates changed is as it was before, and the lineage is a new one, because those updates had been acknowledged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from optimdpb.errors import Refused

from optimd_server.core.events import RangeTestRequested
from optimd_server.schedules.range_test import Suggestion, suggest, sweep_of

STEPS_MIN, STEPS_MAX = 10, 10_000
# Rates are cast to float32; at the least ratio every step of the longest sweep still has a rate of its own.
RATE_MIN, RATE_MAX = 1e-30, 1e30
RATIO_MIN = 1.01
# Weight of what was before in the running mean that tells divergence, and how far it may rise, in first losses.
KEEP = 0.8
RISE_MAX = 2.0


class Phase(Enum):
    """Where a test is."""

    WANTED = "wanted"
    KEEPING = "keeping"
    SWEEPING = "sweeping"
    ENDING = "ending"
    PUTTING_BACK = "putting back"
    DONE = "done"


@dataclass(frozen=True)
class Point:
    """One round of the sweep. loss: None if none was reported."""

    step: int
    learning_rate: float
    loss: float | None
    contributions: int


class RangeTest:
    """Its request, phase and points. `end`: "" while it sweeps, then the contract's RangeTestEnd in lower case."""

    def __init__(self, request: RangeTestRequested) -> None:
        self.request = request
        self.phase = Phase.WANTED
        self.first_step = 0
        self.points: list[Point] = []
        self.end = ""
        self.why = ""
        self.suggestion: Suggestion | None = None
        self._sweep = sweep_of(request.lr_start, request.lr_end, request.steps, request.sweep)
        self._mean = self._weight = 0.0
        self._first = self._least = math.inf

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.phase is not Phase.DONE

    @property
    def sweeping(self) -> bool:
        """Whether updates are made under its rate, or may still be."""
        return self.phase in (Phase.SWEEPING, Phase.ENDING, Phase.PUTTING_BACK)

    @property
    def halfway(self) -> bool:
        """Whether the rounds must stand still for it."""
        return self.active and self.phase is not Phase.SWEEPING

    def rate(self, step: int) -> float:
        """lr of the update of a step."""
        return self._sweep(step - self.first_step)

    def take(self, point: Point, losses: Iterable[float | None]) -> None:
        """A round was made; losses: as its workers reported them."""
        if self.phase is not Phase.SWEEPING:
            return
        self.points.append(point)
        bad = [loss for loss in (*losses, point.loss) if loss is not None and not math.isfinite(loss)]
        if bad:
            self.finish("diverged", f"a worker reported the loss {bad[0]:g} at the rate {point.learning_rate:.3g}")
        elif point.loss is None:
            self.finish("no_loss", "the workers report no loss with their pushes")
        elif self._rises(point.loss):
            self.finish("diverged", f"the loss grew to {point.loss:.4g} at the rate {point.learning_rate:.3g}")
        elif len(self.points) == self.request.steps:
            self.finish("completed", "")

    def reject(self, worker: str, detail: str) -> None:
        """A worker's gradient was unusable: that, too, is divergence."""
        self.finish("diverged", f"a gradient of {worker} was rejected: {detail}")

    def finish(self, end: str, why: str) -> None:
        """Sweep no further."""
        if self.phase is Phase.SWEEPING:
            self.phase = Phase.ENDING
        if not self.end:
            self.end, self.why = end, why

    def _rises(self, loss: float) -> bool:
        """Whether the running mean is above its least by RISE_MAX times the first loss."""
        self._mean = KEEP * self._mean + (1.0 - KEEP) * loss
        self._weight = KEEP * self._weight + (1.0 - KEEP)
        mean = self._mean / self._weight
        self._first = mean if self._first == math.inf else self._first
        self._least = min(self._least, mean)
        return mean > self._least + RISE_MAX * abs(self._first)

    def conclude(self) -> None:
        """It is over."""
        points = [
            (point.learning_rate, point.loss)
            for point in self.points
            if point.loss is not None and math.isfinite(point.loss)
        ]
        found = suggest([rate for rate, _ in points], [loss for _, loss in points])
        words = f"{self.why}; {found.explanation}" if self.why else found.explanation
        self.suggestion = dataclasses.replace(found, explanation=words)
        self.phase = Phase.DONE

    def asks_for(self, request: RangeTestRequested) -> bool:
        """Whether the request asks for this very test, apart from who asks and when."""
        own = self.request
        return (own.lr_start, own.lr_end, own.steps, own.sweep) == (
            request.lr_start,
            request.lr_end,
            request.steps,
            request.sweep,
        )

    def saved(self) -> dict[str, Any]:
        """A test that is done as plain values."""
        assert not self.active
        return {
            "request": dataclasses.asdict(self.request),
            "first_step": self.first_step,
            "points": [list(dataclasses.astuple(point)) for point in self.points],
            "end": self.end,
            "why": self.why,
        }

    @staticmethod
    def restored(saved: dict[str, Any]) -> RangeTest:
        """A test that is done from plain values."""
        test = RangeTest(RangeTestRequested(**saved["request"]))
        test.first_step, test.end, test.why = int(saved["first_step"]), str(saved["end"]), str(saved["why"])
        test.points = [Point(*point) for point in saved["points"]]
        test.conclude()
        return test


def check_request(request: RangeTestRequested) -> None:
    """Raises Refused(INVALID_UPDATE)."""
    if not RATE_MIN <= request.lr_start <= RATE_MAX:
        raise _invalid("lr_start", f"{RATE_MIN:g} to {RATE_MAX:g}", request.lr_start)
    if not RATIO_MIN * request.lr_start <= request.lr_end <= RATE_MAX:
        expected = f"at least {RATIO_MIN:g} times lr_start = {request.lr_start:g} and at most {RATE_MAX:g}"
        raise _invalid("lr_end", expected, request.lr_end)
    if not STEPS_MIN <= request.steps <= STEPS_MAX:
        raise _invalid("steps", f"{STEPS_MIN} to {STEPS_MAX}", request.steps)
    if request.sweep not in ("exponential", "linear"):
        raise _invalid("sweep", "exponential or linear", request.sweep)


def _invalid(field: str, expected: str, got: object) -> Refused:
    return Refused("INVALID_UPDATE", f"{field}: expected {expected}, got {got}", field=field)
