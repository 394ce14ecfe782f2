"""Jobs to the data directory and back."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from optimdpb.errors import Refused, SnapshotRefused
from optimdpb.specs import JobSpec

from optimd_server.runtime.host import JobHost
from optimd_server.storage import Store

log = logging.getLogger(__name__)


class Saver:
    """Saves and restores the jobs of one server in its store; saves one at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._saving = asyncio.Lock()

    def restore(self, create: Callable[[str, JobSpec], JobHost]) -> None:
        """Create and fill every job that was saved. Raises SnapshotRefused, and whatever create() raises.

        If the last server was cut off, more may have been acknowledged than was saved: then each job forks its lineage.
        """
        for snapshot in self._store.newest():
            lineage = secrets.token_hex(16) if self._store.unclean else None
            host = create(snapshot.job, snapshot.spec)
            try:
                host.restore(snapshot, lineage)
            except (KeyError, TypeError, ValueError) as error:
                raise SnapshotRefused(f"of job {snapshot.job!r}", f"its state is not understood: {error!r}") from error
            how = "as it was" if lineage is None else "under a new lineage: what came after the snapshot is lost"
            log.info("job %s: restored at step %d, %s", snapshot.job, host.machine.state.step, how)
        self._store.mark_running()

    async def save(self, host: JobHost) -> Path:
        """Raises Refused(JOB_NOT_READY, WRONG_STATE, STORAGE_FAILED); then the older snapshots are as they were."""
        _check_savable(host)
        async with self._saving:
            image = await host.image()
            try:
                path = await asyncio.to_thread(self._store.save, image)
            except OSError as error:
                message = f"job {host.name!r} could not be saved: {error}"
                raise Refused("STORAGE_FAILED", message, problem=error) from error
        log.info("job %s: saved at step %d in %s", host.name, image.state["step"], path)
        return path

    async def save_all(self, hosts: Iterable[JobHost]) -> None:
        """Save every job that is ready and can be trusted; nothing may happen to them any more.

        Raises Refused(STORAGE_FAILED).
        """
        ready = [host for host in hosts if host.ready.is_set()]
        for host in ready:
            if host.is_trusted:
                await self.save(host)
        if all(host.is_trusted for host in ready):
            self._store.mark_ended()

    def close(self) -> None:
        """Let another server use the directory."""
        self._store.close()


def _check_savable(host: JobHost) -> None:
    if not host.ready.is_set():
        raise Refused("JOB_NOT_READY", "the job has no parameters to save", job=host.name, state=host.state_name)
    host.check_trusted()
    if host.state_name == "RANGE_TEST":
        message = "expected no range test on its way: what it does is not to be kept"
        raise Refused("WRONG_STATE", message, job=host.name, state=host.state_name)
