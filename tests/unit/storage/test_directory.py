"""The data directory: one server at a time, whole snapshots only, the last two kept."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from optimd_server.core.ledger import EPOCHS_PER_START_BITS
from optimd_server.storage import STARTS_MAX, DataDirectory, Snapshot, Stored, directory

from tests.unit.storage.test_snapshot import snapshot_of


def at_step(step: int, job: str = "digits") -> Snapshot:
    snapshot = snapshot_of((7,), seed=step)
    return dataclasses.replace(snapshot, job=job, state={**snapshot.state, "step": step})


def newest(data: DataDirectory) -> list[Snapshot]:
    """All of them are good."""
    found = list(data.stored())
    assert [stored.problem for stored in found] == [""] * len(found)
    return [stored.snapshot for stored in found if stored.snapshot is not None]


def only(data: DataDirectory) -> Stored:
    (stored,) = data.stored()
    return stored


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    with pytest.raises(OSError, match="in use by another server"):
        DataDirectory(tmp_path)
    first.close()
    DataDirectory(tmp_path).close()


def test_unclean_until_ended_in_order(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.save(at_step(1))
    data.close()
    for expected, end in ((False, False), (True, True), (False, False), (True, True)):
        data = DataDirectory(tmp_path)
        assert [stored.is_whole for stored in data.stored()] == [not expected]
        data.mark_running()
        if end:
            data.mark_ended([])
        data.close()


def test_no_two_servers_are_the_same_start(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        data = DataDirectory(tmp_path)
        assert data.start == expected
        data.close()
    (tmp_path / "optimd.lock").write_text("what?")
    with pytest.raises(OSError, match="expected a number of starts"):
        DataDirectory(tmp_path)


def test_the_newest_of_each_job(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    for job in ("digits", "a/b", "a:b", "..", "x" * 128):
        for step in (5, 9, 9):
            data.save(at_step(step, job))
    found = newest(data)
    assert sorted(snapshot.job for snapshot in found) == sorted(["digits", "a/b", "a:b", "..", "x" * 128])
    assert {snapshot.state["step"] for snapshot in found} == {9}
    data.close()


def test_the_newest_is_the_last_saved_even_at_an_earlier_step(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    for step in (100, 3):
        data.save(at_step(step))
    (found,) = newest(data)
    assert found.state["step"] == 3
    data.close()


def test_two_are_kept(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    paths = [data.save(at_step(step)) for step in range(5)]
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    assert [path.name for path in paths[3:]] == ["00000004-step-3", "00000005-step-4"]
    data.close()


def test_numbers_that_come_of_a_start_stay_exact_in_every_language(tmp_path: Path) -> None:
    (tmp_path / "optimd.lock").write_text(f"{STARTS_MAX - 1:020}")
    data = DataDirectory(tmp_path)
    assert (data.start + 1) << EPOCHS_PER_START_BITS <= 2**53
    data.close()
    with pytest.raises(OSError, match=f"expected at most {STARTS_MAX} starts"):
        DataDirectory(tmp_path)
    assert int((tmp_path / "optimd.lock").read_text()) == STARTS_MAX


def test_what_was_never_finished_is_not_looked_at_and_goes_at_the_next_start(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    path = data.save(at_step(1))
    aside = path.with_name(".aside-00000002-step-2-0123456789abcdef")
    path.rename(aside)
    data.close()
    data = DataDirectory(tmp_path)
    assert newest(data) == []
    assert not aside.exists()
    aside.mkdir()
    again = data.save(at_step(3))
    assert not aside.exists(), "or with the next save"
    assert [snapshot.state["step"] for snapshot in newest(data)] == [3]
    assert again.exists()
    data.close()


def test_two_saves_of_one_step_never_write_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second leaves the first one's folder alone, and neither renames what the other writes."""
    data = DataDirectory(tmp_path)
    real, folders = directory.write_snapshot, []

    def write(folder: Path, snapshot: Snapshot) -> None:
        folders.append(folder)
        if len(folders) == 1:
            data.save(at_step(1))
        real(folder, snapshot)

    monkeypatch.setattr(directory, "write_snapshot", write)
    with pytest.raises(OSError, match="not empty"):
        data.save(at_step(1))
    assert len(set(folders)) == 2
    assert [snapshot.state["step"] for snapshot in newest(data)] == [1]
    data.close()


def test_a_failed_write_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataDirectory(tmp_path)
    path = data.save(at_step(1))

    def fail(folder: Path, snapshot: Snapshot) -> None:
        (folder / "shard-1-of-2.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "write_snapshot", fail)
    with pytest.raises(OSError, match="No space"):
        data.save(at_step(2))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert [snapshot.state["step"] for snapshot in newest(data)] == [1]
    data.close()


def test_a_snapshot_in_the_folder_of_another_job_is_refused(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    path = data.save(at_step(1))
    path.parent.rename(path.parent.with_name("letters-0123456789abcdef"))
    stored = only(data)
    assert (stored.job, stored.snapshot) == ("letters-0123456789abcdef", None)
    assert "of job 'digits', which belongs in digits-" in stored.problem
    data.close()


def test_a_damaged_newest_is_not_passed_over(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.save(at_step(1))
    (data.save(at_step(2)) / "manifest.json").unlink()
    stored = only(data)
    assert (stored.job, stored.snapshot) == ("digits", None)
    assert "00000002-step-2/manifest.json: it is missing" in stored.problem
    data.close()


def test_a_damaged_one_is_named_even_if_its_manifest_is_gone_and_nobody_writes_beside_it(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    for path in [data.save(at_step(1)), data.save(at_step(2))]:
        (path / "manifest.json").write_text("{}")
    assert only(data).job == path.parent.name, "there is no other name"
    for job in ("digits", path.parent.name):
        assert "manifest.json: expected format" in data.refusal(job)
    assert data.refusal("letters") == ""
    with pytest.raises(OSError, match="was not restored"):
        data.save(at_step(3))
    data.make_room("digits")
    assert len([entry for entry in path.parent.iterdir() if entry.is_dir()]) == 2
    data.close()


def test_what_is_restored_in_place_of_a_damaged_one_may_lack_something(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.save(at_step(1))
    damaged = data.save(at_step(2))
    (damaged / "manifest.json").write_text("{}")
    assert only(data).problem
    data.mark_running()
    data.mark_ended([])
    data.close()
    shutil.rmtree(damaged)
    data = DataDirectory(tmp_path)
    stored = only(data)
    assert stored.snapshot is not None
    assert (stored.snapshot.state["step"], stored.is_whole) == (1, False)
    data.save(at_step(1))
    assert only(data).is_whole
    data.close()


def test_foreign_entries_are_left_alone(tmp_path: Path) -> None:
    """An ext4 volume has a folder that only root may read."""
    data = DataDirectory(tmp_path)
    data.save(at_step(1))
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes").write_text("mine")
    real = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self.name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", iterdir)
        assert len(newest(data)) == 1
    data.close()


def test_jobs_that_were_not_saved_may_lack_something_and_no_others(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    for job in ("a", "b"):
        data.save(at_step(1, job))
    data.mark_running()
    data.mark_ended(["a", "never saved"])
    assert sorted((stored.job, stored.is_whole) for stored in data.stored()) == [("a", False), ("b", True)]
    data.close()


@pytest.mark.parametrize("anew", [False, True])
def test_a_directory_that_was_deleted_is_not_written(tmp_path: Path, anew: bool) -> None:
    """Another server may have locked what is there now."""
    place = tmp_path / "data"
    data = DataDirectory(place)
    data.save(at_step(1))
    data.mark_running()
    shutil.rmtree(place)
    other = DataDirectory(place) if anew else None
    if other is not None:
        other.mark_running()
    for work in (
        lambda: data.save(at_step(2)),
        lambda: data.mark_ended([]),
        data.mark_running,
    ):
        with pytest.raises(OSError, match="is not the directory that this server locked"):
            work()
    assert (place / "running").exists() == anew
    data.close()
    if other is not None:
        other.close()


def test_it_is_for_the_servers_user_alone(tmp_path: Path) -> None:
    place = tmp_path / "data"
    mask = os.umask(0)
    try:
        data = DataDirectory(place)
        data.save(at_step(1))
        data.mark_running()
        data.mark_ended(["digits"])
        data.mark_running()
    finally:
        os.umask(mask)
    modes = {path.is_dir(): set() for path in place.rglob("*")}
    for path in place.rglob("*"):
        modes[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert modes == {True: {0o700}, False: {0o600}}
    data.close()


def test_a_lock_that_others_could_take_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "optimd.lock").touch(0o644)
    data = DataDirectory(tmp_path)
    assert stat.S_IMODE((tmp_path / "optimd.lock").stat().st_mode) == 0o600
    data.close()


def test_room_is_made_without_the_newest(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    old, good = (data.save(at_step(step)) for step in (1, 2))
    data.make_room("digits")
    data.make_room("never saved")
    assert (old.exists(), good.exists()) == (False, True)
    data.close()


def test_an_old_one_that_cannot_be_removed_costs_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataDirectory(tmp_path)
    for step in (1, 2):
        data.save(at_step(step))

    def rename(self: Path, target: Path) -> Path:
        if self.name.startswith("0000"):
            raise PermissionError(errno.EACCES, "not permitted")
        return Path(os.replace(self, target) or target)

    monkeypatch.setattr(Path, "rename", rename)
    assert data.save(at_step(3)).exists()
    assert [snapshot.state["step"] for snapshot in newest(data)] == [3]
    data.close()


def test_a_folder_that_cannot_be_written_costs_no_other_job_anything(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.save(at_step(1, "well"))
    data.save(at_step(1, "spoilt"))
    data.mark_running()
    (folder,) = tmp_path.glob("spoilt-*")
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")
    data.mark_ended(["spoilt"])
    data.close()
    data = DataDirectory(tmp_path)
    found = {stored.job: stored for stored in data.stored()}
    assert found.pop("well").is_whole
    assert [stored.problem != "" for stored in found.values()] == [True]
    data.mark_running()
    data.mark_ended([])
    data.close()
    folder.unlink()
    data = DataDirectory(tmp_path)
    data.save(at_step(2, "spoilt"))
    assert all(stored.is_whole for stored in data.stored()), "a save takes the mark away"
    data.close()
