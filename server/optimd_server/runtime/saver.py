"""Jobs to the data directory and back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from optimdpb.errors import Refused
from optimdpb.specs import JobSpec

from optimd_server.runtime.daemon import DaemonThread
from optimd_server.runtime.host import JobHost
from optimd_server.runtime.images import check_savable, fill, image_of
from optimd_server.runtime.shielded import to_its_end
from optimd_server.storage import Store, Stored

log = logging.getLogger(__name__)

T = TypeVar("T")

# At the end a full disk is given so long, in seconds, and is tried again so often.
RETRY_S, RETRY_INTERVAL_S = 3.0, 0.5
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Saver:
    """Saves and restores the jobs of one server in its store; saves one at a time.

    marked: the directory is marked as running, or about to be. hurried: at the end nothing is tried again. unsaved:
    what save_all() has not saved, by job: why. ended: it is over.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._saving = asyncio.Lock()
        self._thread = DaemonThread("optimd-storage")
        self.hurried = False
        self.unsaved: dict[str, str] = {}
        self.ended = False
        self.marked = False

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def restore(self, create: Callable[[str, JobSpec], JobHost], failed: Callable[[str, str], None]) -> None:
        """Create and fill every job that was saved; call failed(job, problem) for each with which that is not possible.

        Where more may have been acknowledged than was saved the job forks its lineage. Raises OSError.
        """
        stored = self._store.stored()
        while (found := await self._call(lambda: next(stored, None))) is not None:
            problem = found.problem or await self._restore_one(found, create)
            if problem:
                log.critical("job %s: not restored, what is saved of it stays as it is: %s", found.job, problem)
                failed(found.job, problem)
        self.marked = True
        await self._call(self._store.mark_running)

    async def _restore_one(self, stored: Stored, create: Callable[[str, JobSpec], JobHost]) -> str:
        """Why it could not be restored; "" if it was."""
        snapshot = stored.snapshot
        assert snapshot is not None
        lineage = None if stored.is_whole else secrets.token_hex(16)
        try:
            host = create(snapshot.job, snapshot.spec)
            await fill(host, snapshot, lineage)
        except Exception as error:  # whatever it is, it is this job's alone
            problem = str(error) if isinstance(error, Refused) else f"its state is not understood: {error!r}"
            self._store.refuse(stored.job, problem)
            return problem
        how = "as it was" if lineage is None else "under a new lineage: what came after the snapshot is lost"
        log.info("job %s: restored at step %d, %s", snapshot.job, host.machine.state.step, how)
        return ""

    def refusal(self, job: str) -> str:
        """Why nothing can be done with a job that was saved; "" if something can."""
        return self._store.refusal(job)

    async def save(self, host: JobHost) -> Path:
        """Save it now. Raises Refused(JOB_NOT_READY, JOB_FAILED, WRONG_STATE, STORAGE_FAILED), older snapshots intact.

        A save that has begun runs to its end, also if the caller gives up: the next one waits for it.
        """
        check_savable(host)
        return await to_its_end(self._saving, lambda: self._save(host))

    async def _save(self, host: JobHost) -> Path:
        try:
            image = await image_of(host)
            path = await self._call(lambda: self._store.save(image))
        except (OSError, MemoryError) as error:
            problem = str(error) or "there is no memory to copy its state"
            message = f"job {host.name!r} could not be saved: {problem}"
            log.warning("%s", message)  # whoever asked may have gone
            raise Refused("STORAGE_FAILED", message, problem=problem) from error
        log.info("job %s: saved at step %d in %s", host.name, image.state["step"], path)
        return path

    async def delete(
        self, job: str, *, for_good: bool, check: Callable[[], None], done: Callable[[], None]
    ) -> tuple[bool, str]:
        """See Store.remove. While no job is saved: check() comes right before it, done() right behind it.

        Goes on to its end, also if the caller gives up. Raises Refused(STORAGE_FAILED), and what check() raises.
        """

        async def work() -> tuple[bool, str]:
            check()
            try:
                removed = await self._call(functools.partial(self._store.remove, job, for_good=for_good))
            except OSError as error:
                message = f"job {job!r} could not be deleted: {error}"
                raise Refused("STORAGE_FAILED", message, problem=error) from error
            done()
            return removed

        return await to_its_end(self._saving, work)

    async def save_all(self, hosts: Iterable[JobHost]) -> None:
        """Save every job that is ready; nothing may happen to them any more. Raises Refused(STORAGE_FAILED).

        A job that cannot be saved keeps no other from it, and is restored under another lineage.
        """
        to_save = [host for host in hosts if host.ready.is_set()]
        self.unsaved = {host.name: "not saved yet" for host in to_save}
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + RETRY_S
        while to_save:
            to_save = [host for host in to_save if not await self._save_last(host)]
            if self.hurried or loop.time() >= deadline_s:
                break
            for host in to_save:
                with contextlib.suppress(OSError):
                    await self._call(functools.partial(self._store.make_room, host.name))
            if to_save:
                await asyncio.sleep(RETRY_INTERVAL_S)
        try:
            async with self._saving:  # a save that was given up would take the mark of its job for one of before
                await self._call(lambda: self._store.mark_ended(self.unsaved))
            self.ended = True
        except OSError as error:
            raise Refused("STORAGE_FAILED", f"the data directory failed: {error}", problem=error) from error
        if self.unsaved:
            raise Refused("STORAGE_FAILED", "; ".join(self.unsaved.values()), problem=", ".join(self.unsaved))

    async def _save_last(self, host: JobHost) -> bool:
        """Whether there is nothing more to try."""
        try:
            await host.drain()
            await self.save(host)
        except Exception as error:  # whatever it is, the next job must have its turn
            if host.removed is not None:  # it was deleted meanwhile: there is nothing to save
                del self.unsaved[host.name]
                return True
            self.unsaved[host.name] = str(error) if isinstance(error, Refused) else f"job {host.name!r}: {error!r}"
            cause = error.__cause__
            return not (isinstance(cause, OSError) and cause.errno in _DISK_FULL)
        del self.unsaved[host.name]
        return True

    def close(self) -> None:
        """Let another server use the directory."""
        self._thread.shutdown()
        self._store.close()
