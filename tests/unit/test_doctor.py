"""Each check of `optimd doctor` can fail, and then says what to do."""

from __future__ import annotations

import errno
import http.server
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from optimd.commands import doctor
from optimd_server import checkup
from optimd_server.runtime import ServerConfig
from optimdpb.findings import Finding

from tests.support.servers import ThreadServer

GIB = 1 << 30
ELSEWHERE = "trainer.example:50051"


def failing(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


def slow(_: int) -> None:
    time.sleep(checkup.SYNC_S_MAX * 1.1)


# (what is looked at, its state, what the finding names, what the remedy names)
HOST: dict[str, tuple[Callable[[], Finding], str, str, str]] = {
    "python: old": (lambda: checkup.python((3, 10)), "bad", "3.10", "3.11"),
    "packages: old": (lambda: checkup.packages(["grpcio>=1.74"], lambda _: "1.60.0"), "bad", "1.60.0 is older", "pip"),
    "packages: with an upper bound": (
        lambda: checkup.packages(["protobuf<8,>=6.31.1"], lambda _: "5.29"),
        "bad",
        "protobuf 5.29 is older than 6.31.1",
        "pip",
    ),
    "packages: absent": (lambda: checkup.packages(["grpcio>=1.74"], missing), "bad", "grpcio is not inst", "pip"),
    "packages: an extra": (lambda: checkup.packages(['ray>=2; extra == "ray"'], missing), "ok", "0 packages", ""),
    "cores: a quota": (lambda: checkup.processor(2, 64), "note", "2 of 64", ""),
    "memory: a container's": (lambda: checkup.memory(4 * GIB, 64 * GIB), "note", "4.0 of 64.0", ""),
    "memory: too little": (lambda: checkup.memory(GIB // 4, 64 * GIB), "bad", "0.2 of 64", "raise"),
    "shared memory: forbidden": (
        lambda: checkup.shared_memory(failing(errno.EPERM)),
        "bad",
        "not permitted",
        "memfd_create",
    ),
    "open files: few": (lambda: checkup.open_files(1024), "bad", "1024", "ulimit -Hn 4096"),
    "open files: no limit": (lambda: checkup.open_files(resource.RLIM_INFINITY), "ok", "no limit", ""),
    "kernel cache: none": (lambda: checkup.kernel_cache(""), "bad", "no folder", "NUMBA_CACHE_DIR"),
    "kernel cache: gone": (lambda: checkup.kernel_cache("/no/such"), "bad", "/no/such", "NUMBA_CACHE_DIR"),
    "kernel cache: temporary": (
        lambda: checkup.kernel_cache(tempfile.mkdtemp(prefix="optimd-kernels-")),
        "note",
        "temporary",
        "HOME",
    ),
    "disk: no folder": (lambda: checkup.disk(Path("/no/such")), "bad", "/no/such cannot be written", "server's user"),
    "disk: full": (lambda: checkup.disk(None, failing(errno.ENOSPC)), "bad", "No space left", "space"),
    "disk: slow": (lambda: checkup.disk(Path(tempfile.gettempdir()), slow), "bad", "ms until 4 KiB", "local disk"),
    "clock: not kept": (lambda: checkup.clock(5), "note", "nothing keeps", "chrony"),
    "ray: absent": (lambda: doctor.ray_installed(missing), "skipped", "not installed", "optimd[ray]"),
    "proxy: in the way": (
        lambda: doctor.proxy(ELSEWHERE, {"http_proxy": "http://proxy:3128"}),
        "bad",
        "http_proxy=http://proxy:3128",
        "no_proxy=trainer.example",
    ),
    "proxy: excepted": (
        lambda: doctor.proxy(ELSEWHERE, {"http_proxy": "http://proxy:3128", "no_proxy": "a.b,trainer.example"}),
        "ok",
        "trainer.example",
        "",
    ),
    "proxy: this machine": (lambda: doctor.proxy("[::1]:50051", {"http_proxy": "http://proxy"}), "ok", "none", ""),
    "connection: no such name": (
        lambda: doctor.connection("no-such-host.invalid:50051"),
        "bad",
        "no-such-host.invalid has no address",
        "DNS",
    ),
}


@pytest.mark.parametrize(("look", "state", "found", "remedy"), HOST.values(), ids=list(HOST))
def test_what_is_wrong_is_found(look: Callable[[], Finding], state: str, found: str, remedy: str) -> None:
    finding = look()
    assert finding.state == state, finding
    assert found in finding.found
    assert remedy in finding.remedy
    assert bool(finding.remedy) >= (state == "bad"), "what is bad has a remedy"


def test_this_machine_is_looked_at() -> None:
    found = {each.check: each for each in checkup.findings(None)}
    assert len(found) == 9
    assert found["packages"] == checkup.packages(requires("optimd") or [], version)
    assert found["packages"].state == "ok", found["packages"].found
    assert found["python"].state == found["disk"].state == "ok"


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_web_server_is_no_optimd() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_port}"
            assert doctor.connection(address).state == "ok"
            finding = doctor.health(address)
        finally:
            server.shutdown()
            thread.join()
    assert (finding.state, "no optimd server" in finding.remedy) == ("bad", True)


def test_a_port_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    finding = doctor.connection(address)
    assert (finding.state, finding.check) == ("bad", "connection")
    assert f"optimd serve --listen {address}" in finding.remedy


def test_a_server_of_another_version_is_named() -> None:
    with ThreadServer(ServerConfig(threads=1)) as server:
        assert doctor.program(server.address, version("optimd")).state == "ok"
        finding = doctor.program(server.address, "9.9.9")
    assert finding.state == "note"
    assert version("optimd") in finding.found
    assert "9.9.9" in finding.found


def test_another_grpc_server_and_one_that_does_not_serve_yet() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    said = HealthServicer()
    said.set("", HealthCheckResponse.NOT_SERVING)
    add_HealthServicer_to_server(said, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        assert doctor.health(address) == Finding("health", "bad", "NOT_SERVING", doctor.health(address).remedy)
        assert "wait until it prints" in doctor.health(address).remedy
        program = doctor.program(address, version("optimd"))
        assert program.state == "bad"
        assert address in program.remedy
    finally:
        server.stop(None).wait(5)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimd", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_finds_a_server(tmp_path: Path) -> None:
    with ThreadServer(ServerConfig(threads=1)) as server:
        done = run("--server", server.address, "--data-dir", str(tmp_path), "--json")
        told = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
        assert {each: told[each]["state"] for each in ("connection", "health", "program", "data directory")} == {
            "connection": "ok",
            "health": "ok",
            "program": "ok",
            "data directory": "ok",
        }, done.stdout
        assert done.returncode == any(each["state"] == "bad" for each in told.values())


def test_the_command_says_what_to_do(tmp_path: Path) -> None:
    done = run("--data-dir", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "BAD   data directory" in done.stdout
    assert "give the server's user a folder" in done.stdout
    assert run("--server", "nowhere").returncode == 2
