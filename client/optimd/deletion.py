"""Deleting a job: `optimd delete-job`."""

from __future__ import annotations

import argparse
import json
import sys

from optimdpb.v1 import optimd_pb2 as pb

from optimd.command import ADDRESS, EXIT_FAILED, address_of, ask, complain, printable, run, who
from optimd.transport import Transport


def main(argv: list[str]) -> int:
    """Delete a job. Returns 0; 1 if the server refuses or is away, or if nobody agrees; exits 2 on wrong usage."""
    options = _parser().parse_args(argv)
    if not options.yes and not _agreed(options.job, options.server, with_snapshots=options.with_snapshots):
        return EXIT_FAILED
    request = pb.DeleteJobRequest(job=options.job, with_snapshots=options.with_snapshots, requester=who())

    def work(transport: Transport) -> str:
        answer = ask(transport, options.server, "DeleteJob", request)
        if options.json:
            said = {
                "job": options.job,
                "global_step": answer.header.step,
                "snapshots_kept": answer.snapshots_kept or None,
            }
            return json.dumps(said) + "\n"
        kept = f"its snapshots are kept in {printable(answer.snapshots_kept)}" if answer.snapshots_kept else ""
        was = f"deleted at step {answer.header.step}" if answer.header.lineage else "deleted"
        return f"{options.job}: {was}; {kept or 'no snapshots of it are kept'}\n"

    return run("delete-job", options.server, work)


def _agreed(job: str, server: str, *, with_snapshots: bool) -> bool:
    """Ask on the terminal; without one nobody can agree."""
    if not sys.stdin.isatty():
        complain("delete-job", ValueError("expected --yes, since there is no terminal to ask on: nothing was deleted"))
        return False
    what = "job and all its snapshots" if with_snapshots else "job"
    sys.stderr.write(f"delete {what} {printable(job)!r} on {server}, with its parameters? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    complain("delete-job", ValueError("nothing was deleted"))
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimd delete-job",
        description="Delete a job: its workers are told, its memory is free, its name can be used again.",
        allow_abbrev=False,
    )
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("--server", type=address_of, default=ADDRESS, metavar="HOST:PORT", help=f"default: {ADDRESS}")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--with-snapshots", action="store_true", help="remove what is saved of it, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
