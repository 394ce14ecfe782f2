"""Changing a running job: `optimd set-lr`, `set-steps`, `pause`, `resume`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from optimdpb.codec import schedule_from_spelling
from optimdpb.errors import Refused
from optimdpb.program.command import Number, Parsed, command, json_option
from optimdpb.program.terminal import printable
from optimdpb.specs import Schedule

from optimd.changes import change_of, change_request
from optimd.commands.common import ask, connected, job_option, server_options, tell, who


def _schedule_of(text: str) -> Schedule:
    try:
        return schedule_from_spelling(text)
    except Refused as error:
        raise ValueError(str(error)) from None


def _setting_of(text: str) -> tuple[str, Schedule]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"expected NAME=SCHEDULE, got {text!r}")
    return name, _schedule_of(value)


_at_step = click.option(
    "--at-step",
    type=Number(int, 0),
    metavar="N",
    help="The update of step N is the first with it, the next one if this is not given.",
)
_expected_revision = click.option(
    "--expected-revision", type=Number(int, 0), metavar="R", help="Refuse unless the job is at this revision."
)


@command("set-lr", example="optimd set-lr --job digits --schedule 'sgdr(1e-3, 1e-5, 500)'")
@server_options
@job_option("The job.")
@click.option(
    "--schedule",
    type=Parsed("SCHEDULE", _schedule_of),
    metavar="SCHEDULE",
    help="Of the learning rate: a number, or such as 'cosine(1e-3, 0, 5000)'; docs/schedules.md has them all.",
)
@click.option(
    "--set",
    "settings",
    type=Parsed("NAME=SCHEDULE", _setting_of),
    multiple=True,
    metavar="NAME=SCHEDULE",
    help="Of another hyper-parameter, such as weight_decay=0.01. May be repeated.",
)
@_at_step
@_expected_revision
@json_option
@click.pass_context
def set_lr(
    context: click.Context,
    /,
    schedule: Schedule | None,
    settings: tuple[tuple[str, Schedule], ...],
    **options: Any,
) -> None:
    """Replace the learning-rate schedule of a running job, or other hyper-parameters.

    All workers and shards change at the same step. The change is in the job's history and is undone by another one.
    """
    schedules: dict[str, Schedule] = dict(settings)
    if schedule is not None:
        schedules["lr"] = schedule
    if not schedules:
        raise click.UsageError("expected --schedule or --set, got neither", context)
    _send(schedules=schedules, **options)


@command("set-steps", example="optimd set-steps --job digits 8000")
@server_options
@job_option("The job.")
@click.argument("steps_max", type=Number(int, 1), metavar="N")
@_expected_revision
@json_option
def set_steps(**options: Any) -> None:
    """Let a job end at global step N. One that has finished goes on if N is larger."""
    _send(**options)


@command("pause", example="optimd pause --job digits --at-step 3000")
@server_options
@job_option("The job.")
@_at_step
@_expected_revision
@json_option
def pause(**options: Any) -> None:
    """Make no update of a job. Its workers wait in their calls until `optimd resume`."""
    _send(paused=True, **options)


@command("resume", example="optimd resume --job digits")
@server_options
@job_option("The job.")
@_at_step
@_expected_revision
@json_option
def resume(**options: Any) -> None:
    """Let a paused job go on, or end its range test early."""
    _send(paused=False, **options)


def _send(server: str, timeout_s: float, job: str, *, as_json: bool, **change: Any) -> None:
    request = change_request(job, who(), **change)
    with connected(server) as transport:
        done = change_of(ask(transport, server, "UpdateJob", request, timeout_s))
    text = f"{printable(job)}: revision {done.revision} holds from step {done.at_step} on\n"
    tell({"job": job, **asdict(done)}, text, as_json=as_json)
