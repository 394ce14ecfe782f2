"""Addresses: what is none is refused at once, and a proxy is left out on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import optimd
import pytest
from optimd.address import is_loopback
from optimd.commands.common import ADDRESS_TYPE

from tests.unit.client.conftest import MakeWorker
from tests.unit.client.fake_server import FakeServer


@pytest.mark.parametrize(
    "text",
    [
        *("host", "", ":50051", "host:", "host:0", "host:65536", "host:x", "host:9" + "0" * 5000),
        *(
            "::1:50051",
            "[::1:50051",
            "::1]:50051",
            "[::z]:50051",
            "http://127.0.0.1:50051",
            "https://host:1",
            "a b:1",
            "a/b:1",
        ),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_sent(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT, got"):
        optimd.connect(text, job="j", observer=True)
    with pytest.raises(click.BadParameter, match="expected HOST:PORT, got"):
        ADDRESS_TYPE.convert(text, None, None)


@pytest.mark.parametrize("value", [None, 50051, b"127.0.0.1:50051", ("127.0.0.1", 50051), Path("host:1")])
def test_what_is_no_text_is_no_address(value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected HOST:PORT, got .*: pass one string, such as '127\.0\.0\.1:50051'"):
        optimd.connect(value, job="j", observer=True)


@pytest.mark.parametrize("name", [3, None, b"j", Path("j"), 0])
def test_names_are_text(name: Any) -> None:
    with pytest.raises(TypeError, match=f"expected the job's name as a string, got {re.escape(repr(name))}"):
        optimd.connect("127.0.0.1:1", job=name, worker="w")
    if name is not None:
        with pytest.raises(TypeError, match=f"expected the worker's name as a string, got {re.escape(repr(name))}"):
            optimd.connect("127.0.0.1:1", job="j", worker=name)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("[::1]:1", True),
        ("dns:///localhost:1", True),
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
        ("[fe80::1]:1", False),
    ],
)
def test_which_addresses_are_of_this_machine(address: str, loopback: bool) -> None:
    assert is_loopback(address) == loopback


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(
    server: FakeServer, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert make_worker().status().state == "ready"


def test_observers_have_names_of_their_own(server: FakeServer, make_worker: MakeWorker) -> None:
    """The server names one uploader: two that are told apart do not take each other's place again and again."""
    make_worker()
    start = {"w": np.zeros(8, np.float32)}
    for _ in range(2):
        with optimd.connect(server.address, job="j", observer=True) as observer:
            observer.ensure_job(start, optimd.SGD(0.1), optimd.Sync(1))
    names = [request.worker for request in server.requests("CreateJob")]
    assert len(set(names)) == 2
    assert all(name.startswith("observer-") and len(name) <= 128 for name in names)
