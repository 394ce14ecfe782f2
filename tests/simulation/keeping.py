"""What a server must find as it starts: everything if the one before saved it last thing, else what was promised."""

from __future__ import annotations

from optimd_server.runtime import JobHost

from tests.simulation.checkers import require


class Keeping:
    """The jobs of one data directory. A promise is the step that a job had when a save began that was answered.

    Lineages of jobs that were deleted must not come back.
    """

    def __init__(self) -> None:
        self._promised: dict[str, int] = {}
        self._whole: dict[str, tuple[str, int]] = {}
        self._gone: set[str] = set()

    def promise(self, job: str, step: int) -> None:
        """Somebody was told that the job, at this step or later, is saved."""
        self._promised[job] = max(step, self._promised.get(job, 0))

    def ended(self, host: JobHost) -> None:
        """A server has ended, and saved this job last thing."""
        version = host.machine.version
        self._whole[host.name] = version.lineage, version.step

    def removed(self, job: str) -> None:
        """What was saved of the job is not there any more."""
        self._promised.pop(job, None)
        self._whole.pop(job, None)

    def deleted(self, host: JobHost) -> None:
        """The job is no job of the server any more."""
        self._gone |= lineages_of(host)

    def serves(self) -> None:
        """From now on more may be acknowledged than is saved."""
        self._whole.clear()

    def is_whole(self, job: str) -> bool:
        """Whether everything acknowledged must be there."""
        return job in self._whole

    def check(self, hosts: dict[str, JobHost]) -> None:
        """These were restored by a server that does not serve yet."""
        missing = sorted((self._promised.keys() | self._whole.keys()) - hosts.keys())
        require(not missing, f"{missing} were saved and are not there")
        for name, host in hosts.items():
            require(not self._gone & lineages_of(host), f"job {name} was deleted, and is back")
            version, whole = host.machine.version, self._whole.get(name)
            same = whole in (None, (version.lineage, version.step))
            require(same, f"job {name} ended as {whole} and was restored as {version}: lost, or forked for nothing")
            promised = self._promised.get(name, 0)
            require(version.step >= promised, f"job {name} was saved at {promised} and restored at {version.step}")


def lineages_of(host: JobHost) -> set[str]:
    """All that it has had."""
    state = host.machine.state
    return {state.lineage, *(entry.lineage for entry in state.history)} - {""}
