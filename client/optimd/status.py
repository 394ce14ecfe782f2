"""`optimd status`: what the jobs of a server do, who works on them and what they wait for, as text or JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from optimdpb.errors import OptimdError
from optimdpb.v1 import optimd_pb2 as pb

from optimd.command import ADDRESS, address_of, ask, printable, run
from optimd.results import HistoryEntry, JobStatus, WorkerStatus, status_from_proto
from optimd.transport import Transport

# Most that one answer may hold.
PAGE_SIZE = 1000
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
)


class UnknownJob(OptimdError):
    """The server has no job of the name asked for."""


def main(argv: list[str]) -> int:
    """Show the jobs of a server. Returns 0, 1 if it cannot be reached or lacks the job; exits 2 on wrong usage."""
    options = _parser().parse_args(argv)
    render = json_of if options.json else text_of
    return run(
        "status",
        options.address,
        lambda transport: render(options.address, look(transport, options.address, options.job)),
    )


def look(transport: Transport, address: str, job: str | None = None) -> dict[str, JobStatus]:
    """The status of every job of the server in the order of their names, or of the one named.

    address: for messages alone. Raises UnknownJob, Refused, and ServerUnavailable at the first call that is lost, after
    some seconds for one that stays unanswered.
    """
    names = _job_names(transport, address)
    if job is not None:
        if job not in names:
            raise UnknownJob(f"expected a job of {address}, got {job!r}; it has {_few(names)}")
        names = [job]
    return {name: status_from_proto(ask(transport, address, "GetJob", pb.GetJobRequest(job=name))) for name in names}


def json_of(address: str, jobs: Mapping[str, JobStatus]) -> str:
    """One JSON object: "address", and "jobs", a list with the fields of JobStatus and its name as "job".

    Ends with a line end. learning_rate and loss are null where there is none.
    """
    return json.dumps({"address": address, "jobs": [{"job": name, **asdict(jobs[name])} for name in jobs]}) + "\n"


def text_of(address: str, jobs: Mapping[str, JobStatus]) -> str:
    """The jobs for people, an empty line between two; ends with a line end."""
    if not jobs:
        return f"no jobs on {address}\n"
    return "\n".join(job_text(name, status) for name, status in jobs.items())


def job_text(name: str, status: JobStatus) -> str:
    """One job: what it is, what it waits for, and its live workers, at most WORKERS_MAX of them, broken ones first."""
    end = "" if status.steps_max is None else f" of {status.steps_max}"
    lineage = f", lineage {status.lineage[:LINEAGE_CHARACTERS]}" if status.lineage else ""
    lines = [
        f"{name}: {status.state}, global step {status.global_step}{end}{lineage}",
        f"  {_last_round(status)}",
        f"  pushes: {status.applied} applied, {status.discarded} discarded, {status.rejected} rejected, "
        f"{status.duplicates} duplicates; {status.rounds_void} void rounds",
    ]
    lines += [
        f"  {name}: {text}" for name, text in sorted(status.schedules.items(), key=lambda entry: entry[0] != "lr")
    ]
    if status.history_left_out:
        lines.append(f"  changes left out, the oldest: {status.history_left_out}")
    lines += [f"  {_change_text(entry, status)}" for entry in status.history[-HISTORY_SHOWN:] if entry.revision]
    if status.failure:
        lines.append(f"  {status.failure}")
    if status.waiting_for:
        lines.append(f"  waiting for: {status.waiting_for}")
    lines += [f"  {line}" for line in _workers_text(status.workers, status.workers_left_out)]
    return "\n".join(map(printable, lines)) + "\n"


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


def _workers_text(workers: Sequence[WorkerStatus], left_out: int) -> list[str]:
    """The table in order of rank. A broken worker must not hide behind those that are well."""
    if not workers:
        return ["no live workers"]
    shown = sorted(workers, key=lambda worker: (not _is_broken(worker), worker.rank))[:WORKERS_MAX]
    shown.sort(key=lambda worker: worker.rank)
    rows = [[heading for heading, _ in COLUMNS], *map(_cells, shown)]
    notes = ["", *map(_note, shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, note in zip(rows, notes, strict=True):
        cells = [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, (_, to_the_right) in zip(row, widths, COLUMNS, strict=True)
        ]
        lines.append("  ".join([*cells, note]).rstrip())
    more = len(workers) - len(shown) + left_out
    if more:
        lines.append(f"... and {more} more")
    return lines


def _cells(worker: WorkerStatus) -> list[str]:
    return [
        printable(worker.worker),
        str(worker.rank),
        str(worker.epoch),
        str(worker.last_seq),
        f"{worker.lease_left_s:.1f} s",
        f"{worker.last_push_ago_s:.1f} s",
        "" if worker.idle_s is None else f"{worker.idle_s:.1f} s",
        "yes" if worker.member else "no",
        str(worker.rejections),
        worker.transport.replace("_", " "),
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


def _job_names(transport: Transport, address: str) -> list[str]:
    names: list[str] = []
    token = ""
    while True:
        page = ask(transport, address, "ListJobs", pb.ListJobsRequest(page_size=PAGE_SIZE, page_token=token))
        names += [job.job for job in page.jobs]
        token = page.next_page_token
        if not token:
            return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimd status", description="Show the jobs of a server and their workers.", allow_abbrev=False
    )
    parser.add_argument(
        "address", nargs="?", type=address_of, default=ADDRESS, metavar="HOST:PORT", help=f"default: {ADDRESS}"
    )
    parser.add_argument("--job", metavar="NAME", help="only this one (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every worker")
    return parser
