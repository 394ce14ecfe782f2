"""Deleting a job: `optimd delete-job`."""

from __future__ import annotations

import sys

import click
from optimdpb.program.command import command, json_option
from optimdpb.program.ending import Failed
from optimdpb.program.terminal import printable
from optimdpb.v1 import optimd_pb2 as pb

from optimd.commands.common import ask, connected, job_option, server_options, tell, who


@command("delete-job", example="optimd delete-job --job digits")
@server_options
@job_option("The job.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--with-snapshots", is_flag=True, help="Remove what is saved of it, too.")
@json_option
def main(server: str, timeout_s: float, job: str, *, yes: bool, with_snapshots: bool, as_json: bool) -> None:
    """Delete a job: its workers are told, its memory is free, its name can be used again.

    Its snapshots are put aside in the server's data directory, where no server restores them.
    """
    if not yes:
        _agree(job, server, with_snapshots=with_snapshots)
    request = pb.DeleteJobRequest(job=job, with_snapshots=with_snapshots, requester=who())
    with connected(server) as transport:
        answer = ask(transport, server, "DeleteJob", request, timeout_s)
    kept = answer.snapshots_kept
    facts = {"job": job, "global_step": answer.header.step, "snapshots_kept": kept or None}
    was = f"deleted at step {answer.header.step}" if answer.header.lineage else "deleted"
    snapshots = f"its snapshots are kept in {printable(kept)}" if kept else "no snapshots of it are kept"
    tell(facts, f"{printable(job)}: {was}; {snapshots}\n", as_json=as_json)


def _agree(job: str, server: str, *, with_snapshots: bool) -> None:
    """Ask on the terminal; without one nobody can agree. Raises Failed."""
    if not sys.stdin.isatty():
        raise Failed("NOT_AGREED", "expected --yes, since there is no terminal to ask on: nothing was deleted")
    what = "job and all its snapshots" if with_snapshots else "job"
    sys.stderr.write(f"delete {what} {printable(job)!r} on {server}, with its parameters? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failed("NOT_AGREED", "nothing was deleted")
