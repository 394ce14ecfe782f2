"""How people start and stop workers and servers in Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
import optimd.ray

from tests.e2e.rows_ray_starts import RAY_ROWS

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def server(cluster: None) -> Iterator[Any]:
    handle = optimd.ray.start(threads=1, lease_s=2)
    yield handle
    handle.stop()


@pytest.mark.parametrize("name", RAY_ROWS)
def test_what_is_started_and_stopped_in_ray(name: str, server: Any, tmp_path: Path) -> None:
    RAY_ROWS[name](server, name.replace(" ", "-"), tmp_path / "notes")
