"""`optimd replay`: what happened to a job, event by event, from the log of a server that ran with --event-log."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.json_format import ParseError
from optimdpb.errors import Refused

from optimd_server.core.effects import Effect
from optimd_server.core.events import Event
from optimd_server.core.log import replay
from optimd_server.runtime.eventlog import read_event_log

EXIT_OK, EXIT_FAILED = 0, 1
SHOWN_CHARACTERS_MAX = 400


def main(argv: list[str]) -> int:
    """Print every event with its time and effects, then where the job is. Returns 1 if the file is no event log."""
    parser = argparse.ArgumentParser(
        prog="optimd replay", description="Replay the event log of a job.", allow_abbrev=False
    )
    parser.add_argument("file", type=Path, help="written by a server with --event-log")
    parser.add_argument("--worker", metavar="NAME", help="only events and effects that name this worker")
    options = parser.parse_args(argv)
    try:
        machine, events = read_event_log(options.file)
        failed = _print(options.worker, [now_s for now_s, _ in events], replay(machine, events))
    except (OSError, ValueError, KeyError, TypeError, ParseError) as error:
        print(f"optimd replay: {options.file} is no event log of this version: {error!r}", file=sys.stderr)
        return EXIT_FAILED
    if failed:
        print("the job failed here: what follows in the log is not replayed")
        return EXIT_OK
    version, members = machine.version, machine.state.members
    print(f"step {version.step} of lineage {version.lineage}, {len(members)} workers live")
    if events:
        print(machine.waiting_for(events[-1][0]) or "waits for nothing")
    return EXIT_OK


def _print(worker: str | None, times_s: list[float], results: Iterator[tuple[Event, list[Effect] | Exception]]) -> bool:
    """Print the lines that name the worker, if one is given. Whether the core failed over the last event."""
    result: list[Effect] | Exception = []
    for now_s, (event, result) in zip(times_s, results, strict=False):
        for line in (f"{now_s:14.4f}  {_short(event)}", *_lines(result)):
            if worker is None or worker in line:
                print(line)
    return isinstance(result, Exception) and not isinstance(result, Refused)


def _lines(result: list[Effect] | Exception) -> list[str]:
    if isinstance(result, Refused):
        return [f"{'':14}    refused: {result.reason}: {result}"]
    if isinstance(result, Exception):
        return [f"{'':14}    failed: {result!r}"]
    return [f"{'':14}    {_short(effect)}" for effect in result]


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
