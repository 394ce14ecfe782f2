"""`optimd lr-range-test`: a range test on a job whose workers train."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from google.protobuf.message import Message
from optimdpb.errors import Refused
from optimdpb.program.command import Number, command, json_option
from optimdpb.program.ending import DONE, FAILED, Failed
from optimdpb.program.terminal import printable
from optimdpb.v1 import optimd_pb2 as pb

from optimd.commands.common import ask, connected, job_option, server_options, tell, who
from optimd.range_test import LR_END, LR_START, STEPS, RangeTestResult, result_of, start_request

POLL_INTERVAL_S = 0.2
WORDS_INTERVAL_S = 5.0
_RATE = Number(float, 0)


@command("lr-range-test", example="optimd lr-range-test --job digits --plot curve.png")
@server_options
@job_option("The job; its workers train.")
@click.option("--lr-start", type=_RATE, default=LR_START, show_default=True, metavar="LR", help="The first rate.")
@click.option("--lr-end", type=_RATE, default=LR_END, show_default=True, metavar="LR", help="The last rate.")
@click.option("--steps", type=Number(int, 1), default=STEPS, show_default=True, metavar="N", help="Steps of the sweep.")
@click.option("--linear", is_flag=True, help="By equal differences; by equal factors if this is not given.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the curve; needs optimd[plot].")
@json_option
def main(
    server: str,
    timeout_s: float,
    job: str,
    *,
    lr_start: float,
    lr_end: float,
    steps: int,
    linear: bool,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Sweep the learning rate of a running job, put its state back and say which rates suit it.

    It ends when the sweep does, or when the loss diverges; Ctrl-C ends it early, the job then goes on as before it.
    The exit status is 1 if the losses suggest nothing.
    """
    sweep = "linear" if linear else "exponential"
    start = start_request(job, who(), uuid.uuid4().hex, lr_start, lr_end, steps, sweep)
    with connected(server) as transport:
        result = _run(start, lambda method, request: ask(transport, server, method, request, timeout_s), quiet=as_json)
    tell({"job": job, "lr": result.lr, **asdict(result)}, _text(job, result), as_json=as_json)
    if plot is not None:
        try:
            result.save_picture(plot)
        except ImportError as error:
            raise Failed("NOT_INSTALLED", f"{error}: pip install 'optimd[plot]'") from error
    return FAILED if result.lr_base is None else DONE


def _run(start: pb.StartRangeTestRequest, ask: Callable[[str, Message], Any], *, quiet: bool) -> RangeTestResult:
    """Start it, wait for its end and say now and then how far it is; an interrupt ends it."""
    said_s, steps = time.monotonic(), 0
    try:
        ask("StartRangeTest", start)
        while True:
            report = ask("GetRangeTest", pb.GetRangeTestRequest(job=start.job))
            if report.request_id != start.request_id:
                raise Refused("NO_RANGE_TEST", f"expected range test {start.request_id}, the job has had another since")
            if report.done:
                return result_of(report)
            if not quiet and time.monotonic() - said_s >= WORDS_INTERVAL_S:
                moved, steps, said_s = len(report.rounds) > steps, len(report.rounds), time.monotonic()
                why = "" if moved else ask("GetJob", pb.GetJobRequest(job=start.job)).waiting_for
                waiting = f", waiting for: {printable(why)}" if why else ""
                sys.stderr.write(f"step {steps} of {start.steps}{waiting}\n")
            time.sleep(POLL_INTERVAL_S)
    except KeyboardInterrupt:
        _stop(start, ask)
        if not quiet:
            sys.stderr.write("the range test was ended, the job goes on as before it\n")
        raise


def _stop(start: pb.StartRangeTestRequest, ask: Callable[[str, Message], Any]) -> None:
    """End it, if it is the one that is on its way."""
    try:
        report = ask("GetRangeTest", pb.GetRangeTestRequest(job=start.job))
    except Refused:
        return  # it never began
    if report.request_id == start.request_id and not report.done:
        stop = pb.UpdateJobRequest(job=start.job, request_id=f"stop-{start.request_id}", requester=who())
        stop.state = pb.JOB_STATE_READY
        ask("UpdateJob", stop)


def _text(job: str, result: RangeTestResult) -> str:
    lines = [
        f"{printable(job)}: {len(result.learning_rates)} steps, {result.end}",
        f"  {printable(result.explanation)}",
    ]
    if result.lr_base is not None and result.lr_max is not None:
        lines.append(f"  suggested: lr_base {result.lr_base:.3g}, lr_max {result.lr_max:.3g}; constant {result.lr:.3g}")
    return "\n".join(lines) + "\n"
