"""What tests of whole servers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.calls import RawClient
from tests.support.servers import ThreadServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Of Ray, on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init("local", num_cpus=5, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def client(server: ThreadServer) -> Iterator[RawClient]:
    """Connected to the server of the test's module."""
    with RawClient(server.address) as connected:
        yield connected
