"""Where compiled kernels are kept: in a folder of the user's own, or in a copy of it where that cannot be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numba.core.caching
import optimd_server
import pytest
from optimdpb.kernels import kernel


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is chosen on a machine where nothing was compiled yet."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    optimd_server._choose_kernel_cache()
    return Path(os.environ.pop("NUMBA_CACHE_DIR"))


def choose() -> Path:
    optimd_server._choose_kernel_cache()
    return Path(os.environ["NUMBA_CACHE_DIR"])


def test_it_is_the_same_at_every_start(chosen: Path, tmp_path: Path) -> None:
    assert chosen.parent == tmp_path / "cache" / "optimd"
    assert choose() == chosen


def test_on_a_file_system_that_is_read_only_it_is_a_copy(
    chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a container whose image has compiled them serves at once."""
    (chosen / "rule").mkdir()
    (chosen / "rule" / "kernel.nbc").write_bytes(b"compiled")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != chosen)
    copy = choose()
    assert copy.parent == tmp_path / "temporary"
    assert (copy / "rule" / "kernel.nbc").read_bytes() == b"compiled"


def test_a_folder_of_somebody_else_is_not_used(chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds pickles."""
    (chosen / "kernel.nbc").write_bytes(b"evil")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    other = choose()
    assert other.parent == tmp_path / "temporary"
    assert list(other.iterdir()) == []


def test_where_nothing_can_be_written_it_ends_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(SystemExit, match="set NUMBA_CACHE_DIR, or mount a tmpfs at /tmp"):
        optimd_server._choose_kernel_cache()


def test_where_nothing_can_be_kept_a_worker_compiles_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])
    assert kernel(lambda number: number + 1)(1) == 2
