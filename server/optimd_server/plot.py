"""`optimd plot-schedule`: schedules as curves, in the terminal, as a PNG or as JSON."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from optimdpb.codec import schedule_from_spelling
from optimdpb.errors import Refused
from optimdpb.program.command import Number, Parsed, command, json_option
from optimdpb.program.ending import Failed, json_text
from optimdpb.specs import Schedule
from optimdpb.specs.compound import plateaus
from optimdpb.specs.text import schedule_to_text

from optimd_server.schedules import PlateauState, momentum_of, plateau_at, rate_of

STEPS_MAX = 10_000_000
POINTS_MAX = 5000
WORKERS_MAX = 4096
TERMINAL_SIZE = (78, 17)
LABEL_CHARACTERS = 95
# The example loss falls in so many stages, each to this share of the last.
STAGES, STAGE_SHARE, STAGE_FALL = 3, 0.4, 20.0


@dataclass(frozen=True)
class Curve:
    """Values at steps, rising. momentum: that of a one-cycle; losses: what a plateau was shown; else None."""

    label: str
    steps: list[int]
    values: list[float]
    momentum: list[float | None] | None = None
    losses: list[float] | None = None


def _schedule_of(text: str) -> Schedule:
    try:
        return schedule_from_spelling(text)
    except Refused as error:
        raise ValueError(str(error)) from None


_SCHEDULE = Parsed("SCHEDULE", _schedule_of)


@command("plot-schedule", example="optimd plot-schedule 'sgdr(lr_max=1e-3, lr_min=1e-5, period=500)' --steps 5000")
@click.argument("schedule", type=_SCHEDULE)
@click.option("--steps", type=Number(int, 1, STEPS_MAX), required=True, metavar="N", help="Draw steps 0 to N - 1.")
@click.option(
    "--compare", type=_SCHEDULE, multiple=True, metavar="SCHEDULE", help="Draw this one too. May be repeated."
)
@click.option(
    "--workers",
    type=Number(int, 1, WORKERS_MAX),
    metavar="n",
    help="By the pushes of one worker: under Async and Ssp one push is one step, so n workers go through the schedule "
    "n times as fast as under Sync.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.png", help="Write a picture; it is drawn here if not given."
)
@click.option("--log", is_flag=True, help="Logarithmic values in the picture.")
@json_option
@click.pass_context
def main(
    context: click.Context,
    schedule: Schedule,
    steps: int,
    compare: tuple[Schedule, ...],
    workers: int | None,
    out: Path | None,
    *,
    log: bool,
    as_json: bool,
) -> None:
    """Draw schedules of the learning rate, here or as a picture, or print their values.

    SCHEDULE is a number, or one of docs/schedules.md such as 'cosine(1e-3, 0, 5000)', or its JSON form. Needs
    optimd[plot] but for --json: {"curves": [{"label", "steps", "values", ...}]}.
    """
    if as_json and out is not None:
        raise click.UsageError("expected --json or --out, got both", context)
    curves = [curve for each in (schedule, *compare) for curve in curves_of(each, steps, workers)]
    if as_json:
        sys.stdout.write(json_text({"curves": [asdict(curve) for curve in curves]}))
        return
    across = "global step" if workers is None else "push of one worker"
    try:
        if out is None:
            sys.stdout.write(terminal_text(curves, across))
        else:
            save_picture(curves, out, across, log=log)
    except ImportError as error:
        raise Failed("NOT_INSTALLED", f"{error}: pip install 'optimd[plot]'") from error


def curves_of(schedule: Schedule, steps: int, workers: int | None = None) -> list[Curve]:
    """The schedule over its first steps; with workers, over the pushes of one worker, under Sync and under Async."""
    text = schedule_to_text(schedule)
    if workers is None:
        return [_curve(text, schedule, steps, 1)]
    return [
        _curve(f"Sync: one round is one step, {text}", schedule, steps, 1),
        _curve(f"Async, Ssp: one push of {workers} workers is one step, {text}", schedule, steps, workers),
    ]


def _curve(label: str, schedule: Schedule, steps: int, stride: int) -> Curve:
    """The value at stride k for k from 0 to steps - 1: all of them, or as many as a picture can show."""
    count = min(steps, POINTS_MAX)
    shown = sorted({round(place * (steps - 1) / max(count - 1, 1)) for place in range(count)})
    if plateaus(schedule):
        return _example(label, schedule, shown, steps, stride)
    rate, momentum = rate_of(schedule), momentum_of(schedule)
    values = [rate(stride * step) for step in shown]
    return Curve(label, shown, values, None if momentum is None else [momentum(stride * step) for step in shown])


def _example(label: str, schedule: Schedule, shown: list[int], steps: int, stride: int) -> Curve:
    """A schedule that follows the loss, for one that falls in stages and stands still after each."""
    state: PlateauState | None = None
    rate = rate_of(schedule, lambda: state.lr if state is not None else 0.0)
    values, losses, wanted = [], [], {stride * step for step in shown}
    for step in range(stride * (steps - 1) + 1):
        active = plateau_at(schedule, step)
        if active is not None and state is None:
            state = PlateauState.first(active)
        loss = example_loss(step / (stride * steps))
        if step in wanted:
            values.append(rate(step))
            losses.append(loss)
        if active is not None and state is not None:
            state = state.after(active, loss)
    return Curve(f"{label}, for an example loss", shown, values, losses=losses)


def example_loss(share: float) -> float:
    """The loss after a share of the training, 0 to 1."""
    stage = min(int(share * STAGES), STAGES - 1)
    high, low = 2.0 * STAGE_SHARE**stage, 2.0 * STAGE_SHARE ** (stage + 1)
    return low + (high - low) * math.exp(-STAGE_FALL * (share * STAGES - stage))


def terminal_text(curves: Sequence[Curve], across: str) -> str:
    """The curves in characters. Raises ImportError."""
    from uniplot import plot_to_string

    width, height = TERMINAL_SIZE
    drawn = plot_to_string(
        xs=[curve.steps for curve in curves],
        ys=[curve.values for curve in curves],
        width=width,
        height=height,
        lines=True,
        color=False if len(curves) == 1 else None,
        y_min=0.0,
        title=f"value by {across}",
    )
    lines = [str(drawn)]
    for number, curve in enumerate(curves, 1):
        lines.append(f"{number}. {curve.label}")
        lines.append(f"   from {curve.values[0]:.6g} to {curve.values[-1]:.6g}, {_limits(curve)}")
        if curve.momentum is not None:
            known = [value for value in curve.momentum if value is not None]
            lines.append(f"   momentum or beta1 from {max(known):.6g} to {min(known):.6g} and back")
    return "\n".join(lines) + "\n"


def _limits(curve: Curve) -> str:
    low, high = min(curve.values), max(curve.values)
    first_high = curve.steps[curve.values.index(high)]
    return f"highest {high:.6g} at {first_high}, lowest {low:.6g} at {curve.steps[curve.values.index(low)]}"


def save_picture(curves: Sequence[Curve], path: Path, across: str, *, log: bool = False) -> None:
    """Write a PNG, the same bytes for the same curves. Raises ImportError, OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    labels = [textwrap.fill(curve.label, LABEL_CHARACTERS) for curve in curves]
    for curve, label in zip(curves, labels, strict=True):
        axes.plot(curve.steps, curve.values, linewidth=1.5, label=label)
    beside: Any = None
    for curve in curves:
        if curve.momentum is not None:
            beside = beside or _axis_beside(axes, "momentum or beta1")
            known = [math.nan if value is None else value for value in curve.momentum]
            beside.plot(curve.steps, known, linewidth=1, linestyle="--", color="tab:gray")
        if curve.losses is not None:
            beside = beside or _axis_beside(axes, "example loss")
            beside.plot(curve.steps, curve.losses, linewidth=1, color="tab:gray", alpha=0.6)
    lines = len("\n".join(labels).splitlines())
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0.0)
    axes.set_xlabel(across)
    axes.set_ylabel("value")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, 1.02 + 0.09 * lines))
    figure.savefig(path, dpi=90, format="png", metadata={"Software": None})


def _axis_beside(axes: Any, label: str) -> Any:
    beside = axes.twinx()
    beside.set_ylabel(label, color="tab:gray")
    beside.tick_params(colors="tab:gray")
    return beside
