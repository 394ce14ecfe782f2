"""A file of everything that happened to one job in one server process, for whoever must understand it afterwards.

JSON lines: first what the machine started from (specification, times, epochs, and the state if it was restored), then
one line for each event with its time. It is for looking into a problem, not for durability: where it cannot be written,
or would grow too large, the job goes on without.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from google.protobuf import json_format
from optimdpb.codec import job_spec_from_proto, job_spec_to_proto
from optimdpb.specs import JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.config import ServerConfig
from optimd_server.core import JobMachine
from optimd_server.core.events import Event
from optimd_server.core.log import Plain, plain_event
from optimd_server.core.plain import json_line, of_json_line
from optimd_server.core.saved import restore
from optimd_server.storage.directory import FOLDER_MODE, folder_name
from optimd_server.storage.snapshot import FILE_MODE

log = logging.getLogger(__name__)


def open_event_log(config: ServerConfig, job: str, spec: JobSpec, machine_arguments: dict[str, Any]) -> EventLog | None:
    """None where none is wanted, or it cannot be made: then the server's log says why."""
    folder = config.event_log_dir
    if folder is None:
        return None
    try:
        path = folder / f"{folder_name(job)}-{machine_arguments['epochs_from']}.jsonl"
        folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        file = open(path, "x", opener=lambda name, flags: os.open(name, flags, FILE_MODE))  # noqa: SIM115
    except Exception as error:
        log.warning("job %s goes on without an event log: %s", job, error)
        return None
    event_log = EventLog(path, file, config.event_log_bytes_max)
    event_log.started(job, spec, machine_arguments)
    return event_log


class EventLog:
    """Appends to a file, at most bytes_max. Never raises: what cannot be written is said once, and ends it."""

    def __init__(self, path: Path, file: IO[str], bytes_max: int) -> None:
        self.path = path
        self._file = file
        self._bytes_left = bytes_max

    def started(self, job: str, spec: JobSpec, machine_arguments: dict[str, Any]) -> None:
        """What the machine was made from."""
        self._write(
            lambda: {
                "job": job,
                "spec": json_format.MessageToDict(job_spec_to_proto(spec), preserving_proto_field_name=True),
                "machine": machine_arguments,
            }
        )

    def restored(self, saved: Plain, now_s: float, fresh_lineage: str | None) -> None:
        """The machine did not start from nothing."""
        self._write(lambda: {"restored": saved, "now_s": now_s, "fresh_lineage": fresh_lineage})

    def event(self, event: Event, now_s: float) -> None:
        """It is about to be taken, or refused."""
        self._write(lambda: {"now_s": now_s, **plain_event(event)})

    def close(self) -> None:
        """Nothing more comes."""
        with contextlib.suppress(Exception):  # every line was written as it came
            self._file.close()

    def _write(self, plain: Callable[[], Plain]) -> None:
        if self._file.closed:
            return
        try:
            line = json_line(plain()) + "\n"
            self._bytes_left -= len(line)
            if self._bytes_left < 0:
                raise OverflowError("it has reached event_log_bytes_max")
            self._file.write(line)
            self._file.flush()
        except Exception as error:
            log.warning("event log %s ends here: %s", self.path, error)
            self.close()


def read_event_log(path: Path) -> tuple[JobMachine, list[tuple[float, Plain]]]:
    """The machine as it started, and its events. Raises OSError, ValueError, KeyError for what is no event log.

    A last line that was cut off is left out.
    """
    with path.open() as file:
        lines = list(_lines(file))
    head = lines.pop(0)
    spec = job_spec_from_proto(json_format.ParseDict(head["spec"], pb.JobSpec()))
    machine = JobMachine(spec, **head["machine"])
    if lines and "restored" in lines[0]:
        first = lines.pop(0)
        restore(machine, first["restored"], first["now_s"], first["fresh_lineage"])
    return machine, [(line.pop("now_s"), line) for line in lines]


def _lines(file: IO[str]) -> list[Plain]:
    found = []
    for text in file:
        if text.endswith("\n"):
            found.append(of_json_line(text))
    if not found:
        raise ValueError("expected an event log, got an empty file")
    return found
