"""The learning-rate range test as its user sees it: the result, its picture, and `optimd lr-range-test`."""

from __future__ import annotations

import argparse
import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optimdpb.errors import OptimdError, Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd.command import ADDRESS, EXIT_FAILED, EXIT_OK, address_of, ask, complain, printable, run, who
from optimd.session import Session
from optimd.transport import Transport

LR_START, LR_END, STEPS = 1e-6, 10.0, 200
# Pulls (True) or makes a step (False) and tells the lineage of the parameters that came, None if it is not known.
Trains = Callable[[bool], str | None]
SWEEPS = ("exponential", "linear")
POLL_INTERVAL_S = 0.2


class NoSuggestion(OptimdError):
    """The range test ended, and its losses suggest no rate."""


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


def main(argv: list[str]) -> int:
    """Run a range test on a job whose workers train. Returns 0; 1 if it suggests nothing or fails; exits 2 on usage."""
    options = _parser().parse_args(argv)
    results: list[RangeTestResult] = []

    def work(transport: Transport) -> str:
        results.append(_run(transport, options))
        return json.dumps(_facts(options.job, results[0])) + "\n" if options.json else _text(options.job, results[0])

    status = run("lr-range-test", options.server, work)
    if status != EXIT_OK:
        return status
    if options.plot is not None:
        try:
            results[0].save_picture(options.plot)
        except ImportError as error:
            complain("lr-range-test", ImportError(f"{error}: pip install 'optimd[plot]'"))
            return EXIT_FAILED
        except OSError as error:
            complain("lr-range-test", error)
            return EXIT_FAILED
    return EXIT_OK if results[0].lr_base is not None else EXIT_FAILED


def _run(transport: Transport, options: argparse.Namespace) -> RangeTestResult:
    """Start it, wait for its end; an interrupt ends it."""
    request_id = uuid.uuid4().hex
    sweep = "linear" if options.linear else "exponential"
    start = start_request(options.job, who(), request_id, options.lr_start, options.lr_end, options.steps, sweep)
    ask(transport, options.server, "StartRangeTest", start)
    try:
        while True:
            report = ask(transport, options.server, "GetRangeTest", pb.GetRangeTestRequest(job=options.job))
            if report.request_id != request_id:
                raise Refused("NO_RANGE_TEST", f"expected range test {request_id}, the job has had another since")
            if report.done:
                return result_of(report)
            time.sleep(POLL_INTERVAL_S)
    except KeyboardInterrupt:
        stop = pb.UpdateJobRequest(
            job=options.job, request_id=f"stop-{request_id}", state=pb.JOB_STATE_READY, requester=who()
        )
        ask(transport, options.server, "UpdateJob", stop)
        raise NoSuggestion("interrupted: the range test was ended, the job goes on as before it") from None


def _facts(job: str, result: RangeTestResult) -> dict[str, Any]:
    return {"job": job, "lr": result.lr, **asdict(result)}


def _text(job: str, result: RangeTestResult) -> str:
    lines = [f"{job}: {len(result.learning_rates)} steps, {result.end}", f"  {printable(result.explanation)}"]
    if result.lr_base is not None and result.lr_max is not None:
        lines.append(f"  suggested: lr_base {result.lr_base:.3g}, lr_max {result.lr_max:.3g}; constant {result.lr:.3g}")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    description = "Sweep the learning rate of a running job, then put its state back and say which rates suit it."
    parser = argparse.ArgumentParser(prog="optimd lr-range-test", description=description, allow_abbrev=False)
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("--server", type=address_of, default=ADDRESS, metavar="HOST:PORT", help=f"default: {ADDRESS}")
    parser.add_argument("--lr-start", type=float, default=LR_START, metavar="LR", help=f"default: {LR_START:g}")
    parser.add_argument("--lr-end", type=float, default=LR_END, metavar="LR", help=f"default: {LR_END:g}")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"default: {STEPS}")
    parser.add_argument("--linear", action="store_true", help="by equal differences (default: by equal factors)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curve")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the curve")
    return parser
