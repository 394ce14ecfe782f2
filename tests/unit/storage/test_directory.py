"""The data directory: one server at a time, whole snapshots only, the last two kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from optimd_server.storage import DataDirectory, Snapshot, Stored, directory

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


def test_what_was_never_finished_is_not_looked_at_and_goes_with_the_next_save(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    path = data.save(at_step(1))
    aside = path.with_name(".aside-00000002-step-2")
    path.rename(aside)
    assert newest(data) == []
    again = data.save(at_step(3))
    assert not aside.exists()
    assert [snapshot.state["step"] for snapshot in newest(data)] == [3]
    assert again.exists()
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
