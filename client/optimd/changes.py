"""Changing a running job: `optimd set-lr`, `set-steps`, `pause`, `resume`, and the request behind them."""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from optimdpb.codec import schedule_from_spelling, schedule_to_proto
from optimdpb.errors import Refused
from optimdpb.specs import Schedule
from optimdpb.specs.schedules import as_schedule
from optimdpb.v1 import optimd_pb2 as pb

from optimd.command import ADDRESS, address_of, ask, run, who
from optimd.transport import Transport


@dataclass(frozen=True)
class Change:
    """A change that was taken: its revision, and the step from which it holds."""

    revision: int
    at_step: int


def change_request(
    job: str,
    requester: str,
    schedules: Mapping[str, Schedule | float],
    paused: bool | None,
    at_step: int | None,
    expected_revision: int | None,
    steps_max: int | None = None,
) -> pb.UpdateJobRequest:
    """UpdateJob under a fresh request id, so that the call may be repeated. Raises InvalidSpec."""
    request = pb.UpdateJobRequest(
        job=job,
        request_id=uuid.uuid4().hex,
        expected_revision=expected_revision,
        at_step=at_step,
        requester=requester,
        steps_max=steps_max,
        state=None if paused is None else pb.JOB_STATE_PAUSED if paused else pb.JOB_STATE_READY,
    )
    for name, value in schedules.items():
        request.schedules[name].CopyFrom(schedule_to_proto(as_schedule(f"schedules.{name}", value)))
    return request


def change_of(response: pb.UpdateJobResponse) -> Change:
    """From its message."""
    return Change(response.revision, response.at_step)


def set_lr(argv: list[str]) -> int:
    """Replace schedules of a job. Returns 0, 1 if the server refuses or cannot be reached; exits 2 on wrong usage."""
    parser = _parser("set-lr", "Replace the learning-rate schedule of a running job, or other hyper-parameters.")
    parser.add_argument(
        "--schedule", type=_schedule_of, metavar="SCHEDULE", help="of lr, such as 'sgdr(1e-3, 1e-5, 500)'"
    )
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=SCHEDULE", help="such as weight_decay=0.01"
    )
    options = parser.parse_args(argv)
    schedules: dict[str, Schedule] = dict(options.set)
    if options.schedule is not None:
        schedules["lr"] = options.schedule
    if not schedules:
        parser.error("expected --schedule or --set, got neither")
    return _change("set-lr", options, schedules, None)


def set_steps(argv: list[str]) -> int:
    """Move the end of a job. Returns as set_lr()."""
    parser = _parser("set-steps", "Move the end of a job. One that has finished goes on.", at_step=False)
    parser.add_argument("steps_max", type=int, metavar="N", help="the global step at which it finishes")
    options = parser.parse_args(argv)
    request = change_request(options.job, who(), {}, None, None, options.expected_revision, options.steps_max)
    return _send("set-steps", options, request)


def pause(argv: list[str]) -> int:
    """Hold a job's updates. Returns as set_lr()."""
    return _change("pause", _parser("pause", "Make no update of a job; its workers wait.").parse_args(argv), {}, True)


def resume(argv: list[str]) -> int:
    """Let a job go on. Returns as set_lr()."""
    parser = _parser("resume", "Let a paused job go on, or end its range test early.")
    return _change("resume", parser.parse_args(argv), {}, False)


def _schedule_of(text: str) -> Schedule:
    try:
        return schedule_from_spelling(text)
    except Refused as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _setting(text: str) -> tuple[str, Schedule]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=SCHEDULE, got {text!r}")
    return name, _schedule_of(value)


def _change(command: str, options: argparse.Namespace, schedules: Mapping[str, Schedule], paused: bool | None) -> int:
    request = change_request(options.job, who(), schedules, paused, options.at_step, options.expected_revision)
    return _send(command, options, request)


def _send(command: str, options: argparse.Namespace, request: pb.UpdateJobRequest) -> int:
    def work(transport: Transport) -> str:
        change = change_of(ask(transport, options.server, "UpdateJob", request))
        if options.json:
            return json.dumps({"job": options.job, **asdict(change)}) + "\n"
        return f"{options.job}: revision {change.revision} holds from step {change.at_step} on\n"

    return run(command, options.server, work)


def _parser(command: str, description: str, *, at_step: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"optimd {command}", description=description, allow_abbrev=False)
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("--server", type=address_of, default=ADDRESS, metavar="HOST:PORT", help=f"default: {ADDRESS}")
    if at_step:
        parser.add_argument(
            "--at-step", type=int, metavar="N", help="the update of step N is the first (default: the next)"
        )
    parser.add_argument("--expected-revision", type=int, metavar="R", help="refuse unless the job is at it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
