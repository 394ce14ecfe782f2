"""`optimd replay`: what happened to a job, event by event, from the log of a server that ran with --event-log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import ParseError
from optimdpb.errors import Refused
from optimdpb.program.command import command, json_option
from optimdpb.program.ending import Failed, json_text
from optimdpb.program.terminal import printable

from optimd_server.core.effects import Effect
from optimd_server.core.log import replay
from optimd_server.runtime.eventlog import read_event_log

SHOWN_CHARACTERS_MAX = 400


@command("replay", example="optimd replay events/digits.jsonl --worker w2")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--worker", metavar="NAME", help="Only events and effects that name this worker.")
@json_option
def main(file: Path, worker: str | None, *, as_json: bool) -> None:
    """Tell what happened to a job, event by event, each with its time, then where the job is.

    FILE was written by a server with --event-log DIR, one for each job and start.
    """
    tell = _Json(worker) if as_json else _Text(worker)
    try:
        machine, events = read_event_log(file)
        result: list[Effect] | Exception = []
        for (now_s, _), (event, result) in zip(events, replay(machine, events), strict=False):
            tell.event(now_s, _line(event), _consequences(result))
    except BrokenPipeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ParseError) as error:
        raise Failed("NO_EVENT_LOG", f"{file} is no event log of this version: {error!r}") from error
    failed = isinstance(result, Exception) and not isinstance(result, Refused)
    version = machine.version
    facts: dict[str, Any] = {"failed": failed, "global_step": version.step, "lineage": version.lineage}
    facts["workers"] = len(machine.state.members)
    facts["waiting_for"] = machine.waiting_for(events[-1][0]) if events and not failed else ""
    tell.end(facts)


def _consequences(result: list[Effect] | Exception) -> list[str]:
    if isinstance(result, Refused):
        return [f"refused: {result.reason}: {result}"]
    if isinstance(result, Exception):
        return [f"failed: {result!r}"]
    return [_line(effect) for effect in result]


def _line(value: object) -> str:
    return " ".join(repr(value).split())


class _Text:
    """A line for each event and each thing it led to, at once. worker: only lines that name it."""

    def __init__(self, worker: str | None) -> None:
        self._worker = worker

    def event(self, now_s: float, event: str, consequences: list[str]) -> None:
        for line in (f"{now_s:14.4f}  {_short(event)}", *(f"{'':18}{_short(each)}" for each in consequences)):
            if self._worker is None or self._worker in line:
                sys.stdout.write(f"{printable(line)}\n")

    def end(self, facts: dict[str, Any]) -> None:
        if facts["failed"]:
            sys.stdout.write("the job failed here: what follows in the log is not replayed\n")
            return
        step, lineage, workers = facts["global_step"], facts["lineage"], facts["workers"]
        sys.stdout.write(f"step {step} of lineage {lineage}, {workers} workers live\n")
        sys.stdout.write(f"{printable(facts['waiting_for']) or 'waits for nothing'}\n")


class _Json:
    """One document at the end, with nothing cut. worker: only events that name it, or led to something that does."""

    def __init__(self, worker: str | None) -> None:
        self._worker = worker
        self._events: list[dict[str, Any]] = []

    def event(self, now_s: float, event: str, consequences: list[str]) -> None:
        if self._worker is None or any(self._worker in text for text in (event, *consequences)):
            self._events.append({"time_s": now_s, "event": event, "led_to": consequences})

    def end(self, facts: dict[str, Any]) -> None:
        sys.stdout.write(json_text({"events": self._events, **facts}))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
