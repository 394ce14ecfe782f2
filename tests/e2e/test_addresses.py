"""Where servers listen and clients look: every spelling, and what is found out about a wrong one, how soon."""

from __future__ import annotations

import http.server
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import grpc
import numpy as np
import optimd
import pytest

from tests.support.servers import ServerProcess

SOON_S = 5.0
TRAIN = """
import numpy as np, optimd
from tests.support.servers import ServerProcess

with ServerProcess("--listen", "localhost:0") as server:
    with optimd.connect(server.address, job="j", worker="w0", timeout_s=20) as worker:
        worker.ensure_job({"w": np.zeros(3, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        assert worker.step({"w": np.ones(3, np.float32)}).global_step == 1
"""
WITHOUT_IPV6 = "ip link set lo up && sysctl -qw net.ipv6.conf.all.disable_ipv6=1 && exec "
IN_A_NETWORK_OF_ITS_OWN = ["unshare", "-rn", "sh", "-c"]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def serve(listen: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "optimd_server", "serve", "--listen", listen)


@pytest.mark.parametrize(
    ("listen", "also"),
    [
        pytest.param("localhost:0", "127.0.0.1"),
        pytest.param("localhost:0", "[::1]", marks=ipv6),
        pytest.param("[::1]:0", "localhost", marks=ipv6),
        pytest.param("127.0.0.1:0", "localhost"),
        pytest.param("127.0.0.2:0", "127.0.0.2"),
    ],
)
def test_what_a_server_prints_can_be_used_as_it_stands(listen: str, also: str) -> None:
    with ServerProcess("--listen", listen) as server:
        host, _, port = server.address.rpartition(":")
        assert host == listen.rpartition(":")[0]
        for address in (server.address, f"{also}:{port}"):
            with optimd.connect(address, job="j", worker="w0", timeout_s=SOON_S) as worker:
                worker.ensure_job({"w": np.zeros(3, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        shown = run(sys.executable, "-m", "optimd", "status", "--server", server.address)
        assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("::1:50051", "write an IPv6 address in brackets, [::1]:50051"),
        ("[::1:50051", "write an IPv6 address in brackets, [::1]:50051"),
        ("[::z]:50051", "::z"),
        ("http://127.0.0.1:50051", "leave out http://"),
        ("127.0.0.1", "a port from 0 to 65535 is missing"),
        ("local host:50051", "expected HOST:PORT, got 'local host:50051'"),
    ],
)
def test_what_is_no_address_to_listen_on(listen: str, says: str) -> None:
    ended = serve(listen)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("optimd serve: --listen: expected HOST:PORT, got ")
    assert says in ended.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=ipv6)])
def test_a_port_that_is_in_use_at_one_of_two_addresses_is_in_use(host: str) -> None:
    """gRPC would listen on the other alone, and half of the workers would find somebody else."""
    family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((host.strip("[]"), 0))
        other.listen()
        port = other.getsockname()[1]
        ended = serve(f"localhost:{port}")
    assert (ended.returncode, ended.stdout) == (1, "")
    said = ended.stderr.splitlines()[-1]
    assert said == f"optimd serve: cannot listen on localhost:{port}: {host.strip('[]')}: Address already in use"


@pytest.mark.parametrize(
    ("listen", "says"),
    [("192.0.2.1:0", "Cannot assign requested address"), ("nowhere.invalid:0", "no machine of that name is known")],
)
def test_a_host_that_is_not_here(listen: str, says: str) -> None:
    ended = run(sys.executable, "-m", "optimd_server", "serve", "--insecure", "--listen", listen)
    assert ended.returncode == 1
    assert "cannot listen on" in ended.stderr.splitlines()[-1]
    assert says in ended.stderr.splitlines()[-1]


@pytest.mark.skipif(
    run(*IN_A_NETWORK_OF_ITS_OWN, f"{WITHOUT_IPV6} true").returncode != 0 if shutil.which("unshare") else True,
    reason="no network namespaces",
)
def test_a_machine_without_ipv6() -> None:
    ended = run(*IN_A_NETWORK_OF_ITS_OWN, f'{WITHOUT_IPV6} "$0" -c "$1"', sys.executable, TRAIN)
    assert (ended.returncode, ended.stderr) == (0, "")


@contextmanager
def web() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        yield from served(server)


def served(server: http.server.ThreadingHTTPServer) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


@contextmanager
def tls() -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who speaks no TLS
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        yield from served(server)


@contextmanager
def another_grpc_server() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (web, "does not speak gRPC: a web server, perhaps"),
        (tls, "a server with TLS answers there"),
        (another_grpc_server, "a gRPC server answers there"),
    ],
)
def test_another_server_is_told_from_one_that_is_away(
    other: Callable[[], AbstractContextManager[int]], says: str
) -> None:
    with other() as port:
        address, started_s = f"127.0.0.1:{port}", time.monotonic()
        with (
            pytest.raises(optimd.ServerUnavailable) as caught,
            optimd.connect(address, job="j", worker="w0", timeout_s=60) as worker,
        ):
            worker.ensure_job({"w": np.zeros(3, np.float32)}, optimd.SGD(1.0), optimd.Sync(1))
        assert time.monotonic() - started_s < SOON_S
        shown = run(sys.executable, "-m", "optimd", "status", "--server", address)
    assert str(caught.value).startswith(f"no optimd server at {address}: ")
    assert says in str(caught.value)
    assert "check host and port" in str(caught.value)
    assert says in shown.stderr
    assert shown.returncode == 3


def test_where_nothing_listens_a_server_may_still_come() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(optimd.ServerUnavailable, match="nothing listens there") as caught:
            optimd.connect(address, job="j", observer=True, timeout_s=1.0).status()
        assert 1.0 <= time.monotonic() - started_s < SOON_S
        assert address in str(caught.value)


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(optimd.ServerUnavailable, match="no machine of that name is known"):
        optimd.connect("nowhere.invalid:50051", job="j", observer=True, timeout_s=0.5).status()


def test_the_proxy_on_the_way_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(optimd.ServerUnavailable, match=r"the proxy 127\.0\.0\.1:9 that http_proxy names") as caught:
        optimd.connect("192.0.2.1:50051", job="j", observer=True, timeout_s=0.5).status()
    assert "no_proxy" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_has_answered_is_waited_for_whatever_answers_in_its_place() -> None:
    """A gateway in front of one that starts again may answer anything for a while."""
    with ServerProcess() as server, optimd.connect(server.address, job="j", observer=True, timeout_s=1.0) as observer:
        with pytest.raises(optimd.Refused):
            observer.status()
        server.stop()
        other = grpc.server(ThreadPoolExecutor(1), options=(("grpc.so_reuseport", 0),))
        other.add_insecure_port(server.address)
        other.start()
        with pytest.raises(optimd.Refused, match="UNIMPLEMENTED"):  # after a few tries, as any that fails at a call
            observer.status()
        other.stop(None).wait()
