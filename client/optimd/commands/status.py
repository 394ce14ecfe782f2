"""`optimd status`: what the jobs of a server do, who works on them and what they wait for, as text or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from optimdpb.errors import OptimdError
from optimdpb.program.command import command, json_option
from optimdpb.program.ending import json_text
from optimdpb.program.terminal import printable, table_lines, write
from optimdpb.v1 import optimd_pb2 as pb

from optimd.commands.common import TIMEOUT_S, ask, connected, job_names, job_option, server_options
from optimd.results import HistoryEntry, JobStatus, WorkerStatus, status_from_proto
from optimd.transport import Transport

# Workers of a job in the text.
WORKERS_MAX = 20
# Jobs that the message about an unknown one names.
JOBS_NAMED_MAX = 10
LINEAGE_CHARACTERS = 8
# Changes in the text, the last ones.
HISTORY_SHOWN = 5
# So many pushes running rejected are no accident.
REJECTIONS_BROKEN = 3
# Columns of the table of workers: heading, and whether it is aligned to the right.
COLUMNS = (
    ("worker", False),
    ("rank", True),
    ("epoch", True),
    ("last seq", True),
    ("lease left", True),
    ("last push", True),
    ("idle", True),
    ("in round", False),
    ("rejected running", True),
    ("transport", False),
    ("", False),
)


class UnknownJob(OptimdError):
    """The server has no job of the name asked for."""


@command("status", example="optimd status --job digits")
@server_options
@job_option("Only this job.", required=False)
@json_option
def main(server: str, timeout_s: float, job: str | None, *, as_json: bool) -> None:
    """Show the jobs of a server: what each does, who works on it and what it waits for.

    `idle` is how long a worker's program has not called its client; `last push` how long none of its pushes came.
    """
    with connected(server) as transport:
        jobs = look(transport, server, job, timeout_s)
    if as_json:
        sys.stdout.write(json_of(server, jobs))
        return
    for line, style in lines_of(server, jobs):
        write(sys.stdout, (line, style))


def look(
    transport: Transport, address: str, job: str | None = None, timeout_s: float = TIMEOUT_S
) -> dict[str, JobStatus]:
    """The status of every job of the server in the order of their names, or of the one named.

    address: for messages alone. Raises UnknownJob, Refused, and ServerUnavailable at the first call that is lost, after
    some seconds for one that stays unanswered.
    """
    names = job_names(transport, address, timeout_s)
    if job is not None:
        if job not in names:
            raise UnknownJob(f"expected a job of {address}, got {job!r}; it has {_few(names)}")
        names = [job]
    requests = {name: pb.GetJobRequest(job=name) for name in names}
    return {
        name: status_from_proto(ask(transport, address, "GetJob", request, timeout_s))
        for name, request in requests.items()
    }


def json_of(address: str, jobs: Mapping[str, JobStatus]) -> str:
    """One JSON object: "address", and "jobs", a list with the fields of JobStatus and its name as "job".

    Ends with a line end. learning_rate and loss are null where there is none.
    """
    return json_text({"address": address, "jobs": [{"job": name, **asdict(jobs[name])} for name in jobs]})


def lines_of(address: str, jobs: Mapping[str, JobStatus]) -> Iterator[tuple[str, str]]:
    """The jobs for people, an empty line between two, each line with its style."""
    if not jobs:
        yield f"no jobs on {address}", ""
    for number, (name, status) in enumerate(jobs.items()):
        if number:
            yield "", ""
        yield from job_lines(name, status)


def job_lines(name: str, status: JobStatus) -> list[tuple[str, str]]:
    """One job: what it is, what it waits for, and its live workers, at most WORKERS_MAX of them, broken ones first."""
    end = "" if status.steps_max is None else f" of {status.steps_max}"
    lineage = f", lineage {status.lineage[:LINEAGE_CHARACTERS]}" if status.lineage else ""
    lines = [
        (f"{name}: {status.state}, global step {status.global_step}{end}{lineage}", "bold"),
        (f"  {_last_round(status)}", ""),
        (
            f"  pushes: {status.applied} applied, {status.discarded} discarded, {status.rejected} rejected, "
            f"{status.duplicates} duplicates; {status.rounds_void} void rounds",
            "",
        ),
    ]
    lines += [
        (f"  {name}: {text}", "") for name, text in sorted(status.schedules.items(), key=lambda entry: entry[0] != "lr")
    ]
    if status.history_left_out:
        lines.append((f"  changes left out, the oldest: {status.history_left_out}", ""))
    lines += [(f"  {_change_text(entry, status)}", "") for entry in status.history[-HISTORY_SHOWN:] if entry.revision]
    if status.failure:
        lines.append((f"  {status.failure}", "bold red"))
    if status.waiting_for:
        lines.append((f"  waiting for: {status.waiting_for}", "yellow"))
    lines += [(f"  {line}", style) for line, style in _workers_lines(status.workers, status.workers_left_out)]
    return [(printable(line), style) for line, style in lines]


def _change_text(entry: HistoryEntry, status: JobStatus) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.unix_s))
    holds = "will hold" if entry.step > status.global_step else "holds"
    by = f" by {entry.requester}" if entry.requester else ""
    return f"revision {entry.revision} {holds} from step {entry.step}: {entry.change} ({when}{by})"


def _last_round(status: JobStatus) -> str:
    if status.learning_rate is None:
        return "no round applied yet"
    loss = "" if status.loss is None else f", loss {status.loss:.4g}"
    return f"last round: learning rate {status.learning_rate:.4g}{loss}"


def _workers_lines(workers: Sequence[WorkerStatus], left_out: int) -> list[tuple[str, str]]:
    """The table in order of rank. A broken worker must not hide behind those that are well."""
    if not workers:
        return [("no live workers", "")]
    shown = sorted(workers, key=lambda worker: (not _is_broken(worker), worker.rank))[:WORKERS_MAX]
    shown.sort(key=lambda worker: worker.rank)
    lines = table_lines(COLUMNS, map(_cells, shown))
    styles = ["bold", *("red" if _is_broken(worker) else "" for worker in shown)]
    more = len(workers) - len(shown) + left_out
    return [*zip(lines, styles, strict=True), *([(f"... and {more} more", "")] if more else [])]


def _cells(worker: WorkerStatus) -> list[str]:
    return [
        worker.worker,
        str(worker.rank),
        str(worker.epoch),
        str(worker.last_seq),
        f"{worker.lease_left_s:.1f} s",
        f"{worker.last_push_ago_s:.1f} s",
        "" if worker.idle_s is None else f"{worker.idle_s:.1f} s",
        "yes" if worker.member else "no",
        str(worker.rejections),
        worker.transport.replace("_", " "),
        _note(worker),
    ]


def _note(worker: WorkerStatus) -> str:
    if _is_broken(worker):
        return f"{worker.rejections} pushes running rejected: is it broken?"
    return worker.transport_detail if worker.transport == "grpc" else ""


def _is_broken(worker: WorkerStatus) -> bool:
    return worker.rejections >= REJECTIONS_BROKEN


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = len(names) - JOBS_NAMED_MAX
    words = [*names[:JOBS_NAMED_MAX], *([f"{more} more"] if more > 0 else [])]
    return ", ".join(words) or "none"
