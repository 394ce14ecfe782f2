"""The commands of `optimd`: where each is and what it does. None is imported before it is asked for."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """where: module:attribute, on either side of the contract; the two never import each other."""

    name: str
    where: str
    what: str


SECTIONS = {
    "Run": (
        Entry("serve", "optimd_server.cli:serve", "Serve jobs to workers until a signal ends it."),
        Entry("demo", "optimd.demo.cli:main", "Train digits with Ray workers on this machine."),
    ),
    "Look": (
        Entry("status", "optimd.commands.status:main", "What jobs do, who works on them, what they wait for."),
        Entry("doctor", "optimd.commands.doctor:main", "Check this machine and a server, and say what to do."),
    ),
    "Change a job": (
        Entry("set-lr", "optimd.commands.changes:set_lr", "Replace its learning rate or another hyper-parameter."),
        Entry("set-steps", "optimd.commands.changes:set_steps", "Make it longer or shorter."),
        Entry("pause", "optimd.commands.changes:pause", "Make no update; its workers wait."),
        Entry("resume", "optimd.commands.changes:resume", "Let it go on."),
        Entry(
            "delete-job", "optimd.commands.deletion:main", "Delete it; its snapshots are kept unless told otherwise."
        ),
    ),
    "Analyse": (
        Entry("lr-range-test", "optimd.commands.range_test:main", "Find learning rates that suit a job."),
        Entry("plot-schedule", "optimd_server.plot:main", "Draw schedules before anything trains."),
        Entry("replay", "optimd_server.replay:main", "Tell what happened to a job from its event log."),
    ),
    "Shell": (Entry("completion", "optimdpb.program.completion:main", "Complete commands, options and jobs."),),
}
COMMANDS = {entry.name: entry for entries in SECTIONS.values() for entry in entries}
