"""A file of everything that happened to one job in one server process, for whoever must understand it afterwards.

JSON lines: first what the machine started from (specification, times, epochs, and the state if it was restored), then
one line for each event with its time. It grows for ever: it is for looking into a problem, not for durability.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import IO, Any

from google.protobuf import json_format
from optimdpb.codec import job_spec_from_proto, job_spec_to_proto
from optimdpb.specs import JobSpec
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core import JobMachine
from optimd_server.core.events import Event
from optimd_server.core.log import Plain, plain_event
from optimd_server.core.saved import restore


class EventLog:
    """Appends to DIR/JOB-EPOCH.jsonl, EPOCH being the first that this process gives out. Raises OSError."""

    def __init__(self, folder: Path, job: str, spec: JobSpec, machine_arguments: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_-]", "_", job)[:60]
        self.path = folder / f"{name}-{machine_arguments['epochs_from']}.jsonl"
        self._file = self.path.open("x")
        message = json_format.MessageToDict(job_spec_to_proto(spec), preserving_proto_field_name=True)
        self._write({"job": job, "spec": message, "machine": machine_arguments})

    def restored(self, saved: Plain, now_s: float, fresh_lineage: str | None) -> None:
        """The machine did not start from nothing."""
        self._write({"restored": saved, "now_s": now_s, "fresh_lineage": fresh_lineage})

    def event(self, event: Event, now_s: float) -> None:
        """It is about to be taken, or refused."""
        self._write({"now_s": now_s, **plain_event(event)})

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()

    def _write(self, line: Plain) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


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
            found.append(json.loads(text))
    if not found:
        raise ValueError("expected an event log, got an empty file")
    return found
