"""Saving: to its end under its lock, one job's trouble is its own, nothing of a range test, an end with a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from optimd_server.core.events import CreateRequested, RangeTestRequested, UploadCompleted
from optimd_server.runtime import JobHost, Runtime, ServerConfig, saver
from optimd_server.storage import DataDirectory, Snapshot, Stored, directory
from optimdpb.checksum import crc32c
from optimdpb.errors import Refused
from optimdpb.specs import SGD, JobSpec, Layout, Sync, Tensor

SPEC = JobSpec(Layout((Tensor("w", (6,)),)), SGD(0.1), Sync(1))
WAIT_S = 20


def run(data: Path, work: Callable[[Runtime], Awaitable[None]]) -> None:
    """Do it with a started runtime on the directory."""

    async def main() -> None:
        runtime = Runtime(ServerConfig(threads=1, data_dir=data))
        await runtime.start()
        try:
            async with asyncio.timeout(WAIT_S):
                await work(runtime)
        finally:
            await runtime.close()

    asyncio.run(main())


def ready(runtime: Runtime, name: str) -> JobHost:
    host = runtime.find_or_create(name, SPEC)
    host.handle(CreateRequested("w0"))
    data = np.zeros(6, np.float32).view(np.uint8)
    host.shards.upload_vector().write(0, data, crc32c(data))
    host.handle(UploadCompleted(host.machine.state.creation.token, f"lineage-{name}"))
    return host


def stored(data: Path) -> dict[str, Stored]:
    place = DataDirectory(data)
    try:
        return {each.job: each for each in place.stored()}
    finally:
        place.close()


class Disk:
    """Holds every write up until `goes_on`, or fails it with `error`; notes how many are at work at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.goes_on = threading.Event()
        self.error: Callable[[str], OSError | None] = lambda job: None
        self.at_work = self.at_work_max = 0
        self._write = directory.write_snapshot
        monkeypatch.setattr(directory, "write_snapshot", self.write)

    def write(self, folder: Path, snapshot: Snapshot) -> None:
        self.at_work += 1
        self.at_work_max = max(self.at_work, self.at_work_max)
        try:
            self.begun.release()
            assert self.goes_on.wait(WAIT_S)
            error = self.error(snapshot.job)
            if error is not None:
                raise error
            self._write(folder, snapshot)
        finally:
            self.at_work -= 1

    async def has_begun(self) -> None:
        await asyncio.to_thread(self.begun.acquire)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.goes_on.set()


async def give_up(save: asyncio.Task[Path]) -> None:
    save.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await save


def test_a_save_that_is_given_up_runs_to_its_end_and_the_next_one_waits(tmp_path: Path, disk: Disk) -> None:
    async def work(runtime: Runtime) -> None:
        host = ready(runtime, "j")
        first = asyncio.create_task(runtime.save(host))
        await disk.has_begun()
        await give_up(first)
        second = asyncio.create_task(runtime.save(host))
        await asyncio.sleep(0)
        assert not second.done()
        disk.goes_on.set()
        assert (await second).name == "00000002-step-0"

    run(tmp_path, work)
    assert disk.at_work_max == 1
    assert stored(tmp_path)["j"].problem == ""
    assert len([path for path in tmp_path.glob("j-*/*") if path.is_dir()]) == 2


def test_one_that_is_given_up_before_its_turn_never_begins(tmp_path: Path, disk: Disk) -> None:
    async def work(runtime: Runtime) -> None:
        host = ready(runtime, "j")
        first = asyncio.create_task(runtime.save(host))
        await disk.has_begun()
        waiting = [asyncio.create_task(runtime.save(host)) for _ in range(10)]
        await asyncio.sleep(0)
        for save in waiting:
            await give_up(save)
        disk.goes_on.set()
        await first
        assert (await runtime.save(host)).name == "00000002-step-0"

    run(tmp_path, work)


def test_saves_hold_no_thread_that_updates_need(tmp_path: Path, disk: Disk) -> None:
    async def work(runtime: Runtime) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        host = ready(runtime, "j")
        saves = [asyncio.create_task(runtime.save(host)) for _ in range(4)]
        await disk.has_begun()
        for save in saves:
            await give_up(save)
        await asyncio.to_thread(threading.get_ident)
        disk.goes_on.set()

    run(tmp_path, work)


def test_a_range_test_that_begins_while_a_save_waits_is_not_saved(tmp_path: Path, disk: Disk) -> None:
    async def work(runtime: Runtime) -> None:
        other, host = ready(runtime, "other"), ready(runtime, "j")
        first = asyncio.create_task(runtime.save(other))
        await disk.has_begun()
        waiting = asyncio.create_task(runtime.save(host))
        await asyncio.sleep(0)
        host.handle(RangeTestRequested("r", "", 0.0, 1e-3, 1.0, 10, "linear", "sweep"))
        disk.goes_on.set()
        await first
        with pytest.raises(Refused) as refused:
            await waiting
        assert refused.value.reason == "WRONG_STATE"

    run(tmp_path, work)
    assert set(stored(tmp_path)) == {"other"}


def test_at_the_end_a_range_test_is_put_back_and_saved(tmp_path: Path) -> None:
    async def work(runtime: Runtime) -> None:
        host = ready(runtime, "j")
        host.handle(RangeTestRequested("r", "", 0.0, 1e-3, 1.0, 10, "linear", "sweep"))
        assert host.state_name == "RANGE_TEST"
        runtime.freeze()
        await runtime.save_all()

    run(tmp_path, work)
    saved = stored(tmp_path)["j"].snapshot
    assert saved is not None
    assert (saved.state["step"], saved.state["range_test"]["end"]) == (0, "stopped")


def test_one_job_that_cannot_be_saved_keeps_no_other_from_it_and_alone_is_lacking(tmp_path: Path) -> None:
    """Its folder is in the way. What was saved of it before is restored, under another lineage."""

    async def first(runtime: Runtime) -> None:
        for name in "abc":
            ready(runtime, name)
        runtime.freeze()
        await runtime.save_all()

    async def second(runtime: Runtime) -> None:
        real = directory.write_snapshot

        def write(folder: Path, snapshot: Snapshot) -> None:
            if snapshot.job == "a":
                raise PermissionError(errno.EACCES, "not permitted")
            real(folder, snapshot)

        runtime.freeze()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(directory, "write_snapshot", write)
            with pytest.raises(Refused, match=r"job 'a' could not be saved: .*not permitted") as refused:
                await runtime.save_all()
        assert refused.value.reason == "STORAGE_FAILED"
        assert runtime.unsaved == ["a"]

    run(tmp_path, first)
    run(tmp_path, second)
    assert {job: found.is_whole for job, found in stored(tmp_path).items()} == {"a": False, "b": True, "c": True}

    async def third(runtime: Runtime) -> None:
        lineages = {name: host.machine.version.lineage for name, host in runtime.jobs.items()}
        assert lineages.pop("a") != "lineage-a"
        assert lineages == {"b": "lineage-b", "c": "lineage-c"}
        runtime.freeze()
        await runtime.save_all()

    run(tmp_path, third)
    assert all(found.is_whole for found in stored(tmp_path).values())


def test_a_job_that_cannot_be_trusted_is_not_saved_and_the_others_are(tmp_path: Path) -> None:
    async def work(runtime: Runtime) -> None:
        ready(runtime, "a").fail(RuntimeError("half way"), "an update", trusted=False)
        ready(runtime, "b")
        ready(runtime, "c").fail(RuntimeError("between two"), "a tick", trusted=True)
        runtime.freeze()
        with pytest.raises(Refused, match="job 'a' failed"):
            await runtime.save_all()

    run(tmp_path, work)
    assert set(stored(tmp_path)) == {"b", "c"}


def test_a_given_up_save_of_before_does_not_hide_what_was_lost_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, goes_on = asyncio.Event(), asyncio.Event()

    async def slow_image_of(host: JobHost) -> Snapshot:
        image = await real(host)
        copied.set()
        await goes_on.wait()
        return image

    real = saver.image_of

    async def work(runtime: Runtime) -> None:
        host = ready(runtime, "j")
        await runtime.save(host)
        monkeypatch.setattr(saver, "image_of", slow_image_of)
        save = asyncio.create_task(runtime.save(host))
        await copied.wait()
        await give_up(save)
        host.fail(RuntimeError("half way"), "an update of after the copy", trusted=False)
        runtime.freeze()
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        with pytest.raises(Refused, match="job 'j' failed"):
            await runtime.save_all()
        await asyncio.wait_for(runtime._saver._saving.acquire(), WAIT_S)  # type: ignore[union-attr]

    run(tmp_path, work)
    assert not stored(tmp_path)["j"].is_whole


def full(job: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_at_the_end_is_tried_again(tmp_path: Path, disk: Disk) -> None:
    """Older snapshots of the job go for it, but never the last good one."""
    disk.goes_on.set()

    async def work(runtime: Runtime) -> None:
        host = ready(runtime, "j")
        kept = [await runtime.save(host) for _ in range(2)]
        assert all(path.exists() for path in kept)

        def error(job: str) -> OSError | None:
            return full(job) if kept[0].exists() else None

        disk.error = error
        runtime.freeze()
        await runtime.save_all()
        assert [path.exists() for path in kept] == [False, True]

    run(tmp_path, work)
    assert stored(tmp_path)["j"].is_whole


@pytest.mark.parametrize("hurried", [False, True])
def test_a_disk_that_stays_full_costs_no_snapshot(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    disk.goes_on.set()
    monkeypatch.setattr(saver, "RETRY_S", 0.2)
    monkeypatch.setattr(saver, "RETRY_INTERVAL_S", 0.01)
    tries: list[str] = []

    async def work(runtime: Runtime) -> None:
        good = await runtime.save(ready(runtime, "j"))
        ready(runtime, "k")

        def error(job: str) -> OSError | None:
            tries.append(job)
            return full(job) if job == "j" else None

        disk.error = error
        runtime.freeze()
        if hurried:
            runtime.hurry()
        with pytest.raises(Refused, match=r"job 'j' could not be saved: .*No space left"):
            await runtime.save_all()
        assert good.exists()

    run(tmp_path, work)
    found = stored(tmp_path)
    assert (found["j"].problem, found["j"].is_whole, found["k"].is_whole) == ("", False, True)
    assert (tries.count("j") == 1) == hurried
    assert tries.count("k") == 1


def test_a_start_that_never_serves_changes_nothing(tmp_path: Path) -> None:
    async def work(runtime: Runtime) -> None:
        ready(runtime, "j")
        runtime.freeze()
        await runtime.save_all()

    run(tmp_path, work)

    async def never() -> None:
        runtime = Runtime(ServerConfig(threads=1, data_dir=tmp_path))
        runtime.freeze()
        await runtime.save_all()
        await runtime.close()

    asyncio.run(never())
    assert stored(tmp_path)["j"].is_whole


def test_a_job_that_does_not_fit_any_more_is_not_restored_and_not_touched(tmp_path: Path) -> None:
    async def work(runtime: Runtime) -> None:
        for name in "jk":
            ready(runtime, name)
        runtime.freeze()
        await runtime.save_all()

    run(tmp_path, work)

    async def small() -> None:
        runtime = Runtime(ServerConfig(threads=1, data_dir=tmp_path, jobs_max=1))
        await runtime.start()
        assert set(runtime.jobs) == {"j"}
        assert "jobs_max = 1" in runtime.unrestored["k"]
        for ask in (lambda: runtime.job("k"), lambda: runtime.find_or_create("k", SPEC)):
            with pytest.raises(Refused, match="could not be restored") as refused:
                ask()
            assert refused.value.reason == "JOB_FAILED"
        runtime.freeze()
        await runtime.save_all()
        await runtime.close()

    asyncio.run(small())
    assert all(found.is_whole for found in stored(tmp_path).values())
