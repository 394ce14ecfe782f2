"""What tests of whole servers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.calls import RawClient
from tests.support.servers import ThreadServer


@pytest.fixture
def client(server: ThreadServer) -> Iterator[RawClient]:
    """Connected to the server of the test's module."""
    with RawClient(server.address) as connected:
        yield connected
