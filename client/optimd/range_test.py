"""The learning-rate range test as its user sees it: the result and its picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd.session import Session

LR_START, LR_END, STEPS = 1e-6, 10.0, 200
# Pulls (True) or makes a step (False) and tells the lineage of the parameters that came, None if it is not known.
Trains = Callable[[bool], str | None]
SWEEPS = ("exponential", "linear")


@dataclass(frozen=True)
class RangeTestResult:
    """What a range test measured, and the rates it suggests.

    lr_base: where the loss falls fastest; lr_max: the edge of divergence; None where the losses suggest none, and
    `explanation` says why. end: "completed", "diverged", "no_loss", "stopped" or "no_memory". learning_rates, losses:
    of each step, a loss None where none was reported; smoothed: one for each that was.
    """

    lr_base: float | None
    lr_max: float | None
    end: str
    explanation: str
    learning_rates: tuple[float, ...]
    losses: tuple[float | None, ...]
    smoothed: tuple[float, ...]

    @property
    def lr(self) -> float | None:
        """One rate between the two, for a schedule that is constant or begins flat: their geometric mean."""
        return None if self.lr_base is None or self.lr_max is None else math.sqrt(self.lr_base * self.lr_max)

    def save_picture(self, path: str | Path) -> None:
        """Draw losses against rates, with the suggestion. Needs matplotlib: pip install 'optimd[plot]'."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        points = [(lr, loss) for lr, loss in zip(self.learning_rates, self.losses, strict=True) if loss is not None]
        rates = [lr for lr, _ in points]
        axes.semilogx(rates, [loss for _, loss in points], color="tab:blue", alpha=0.35, linewidth=1, label="loss")
        axes.semilogx(rates, self.smoothed, color="tab:blue", linewidth=2, label="smoothed")
        for lr, color, name in ((self.lr_base, "tab:green", "lr_base"), (self.lr_max, "tab:red", "lr_max")):
            if lr is not None:
                axes.axvline(lr, color=color, linestyle="--", label=f"{name} = {lr:.3g}")
        if self.smoothed:  # what comes after the edge would flatten all that matters
            low, first = min(self.smoothed), self.smoothed[0]
            axes.set_ylim(low - 0.1 * abs(first - low), max(first, low) + 0.6 * max(abs(first - low), abs(low) * 0.1))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss of the round")
        axes.set_title(self.explanation, fontsize="small", wrap=True)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=110)


def start_request(
    job: str, requester: str, request_id: str, lr_start: float, lr_end: float, steps: int, sweep: str
) -> pb.StartRangeTestRequest:
    """StartRangeTest; sweep is "exponential" or "linear"."""
    return pb.StartRangeTestRequest(
        job=job,
        requester=requester,
        request_id=request_id,
        lr_start=lr_start,
        lr_end=lr_end,
        steps=steps,
        sweep=f"SWEEP_{sweep.upper()}",
    )


def take_part(session: Session, start: pb.StartRangeTestRequest, trains: Trains) -> RangeTestResult:
    """Start the range test or join in, and train until it is over. Raises Refused, and what training raises."""
    while True:
        session.call("StartRangeTest", start)  # again, too: a server that lost its state has lost the test
        report = _report(session)
        if report.request_id != start.request_id:
            message = f"expected range test {start.request_id!r}, another one took its place: {report.request_id!r}"
            raise Refused("NO_RANGE_TEST", message)
        if report.done:
            return result_of(report)
        lineage = report.header.lineage
        now = trains(True)
        # Once the sweep has begun its end changes the lineage; before, the test may end without.
        while now == lineage and not report.done and report.request_id == start.request_id:
            now = trains(False)
            if not report.rounds:
                report = _report(session)


def _report(session: Session) -> pb.GetRangeTestResponse:
    """Of the job's last range test; of one without a name where there is none."""
    try:
        report: pb.GetRangeTestResponse = session.call("GetRangeTest", pb.GetRangeTestRequest(job=session.job))
    except Refused as error:
        if error.reason != "NO_RANGE_TEST":
            raise
        return pb.GetRangeTestResponse()
    return report


def result_of(message: pb.GetRangeTestResponse) -> RangeTestResult:
    """From its message."""
    return RangeTestResult(
        lr_base=message.lr_base if message.HasField("lr_base") else None,
        lr_max=message.lr_max if message.HasField("lr_max") else None,
        end=pb.RangeTestEnd.Name(message.end).removeprefix("RANGE_TEST_END_").lower(),
        explanation=message.explanation,
        learning_rates=tuple(entry.learning_rate for entry in message.rounds),
        losses=tuple(entry.loss if entry.HasField("loss") else None for entry in message.rounds),
        smoothed=tuple(message.smoothed),
    )
