"""`optimd doctor`: checks this machine, and a server, and says what to do."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass_environment as bypasses  # type: ignore[attr-defined]

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from optimdpb.errors import OptimdError
from optimdpb.findings import Finding
from optimdpb.program.command import command, json_option
from optimdpb.program.ending import DONE, FAILED, json_text
from optimdpb.program.terminal import printable, write
from optimdpb.v1 import optimd_pb2 as pb

from optimd.address import is_loopback
from optimd.commands.common import ADDRESS_TYPE, ask, connected

# Checks of the machine are the server's own; the two sides never import each other.
GROUP = "optimd.checks"
CONNECT_S = 3.0
SIGNS = {"ok": "ok", "note": "note", "bad": "BAD", "skipped": "-"}
STYLES = {"ok": "green", "note": "yellow", "bad": "bold red", "skipped": "dim"}


@command("doctor", example="optimd doctor --server 10.0.0.5:50051 --data-dir /data")
@click.option(
    "--server",
    type=ADDRESS_TYPE,
    metavar="HOST:PORT",
    envvar="OPTIMD_SERVER",
    show_envvar=True,
    help="Check this server too.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    envvar="OPTIMD_DATA_DIR",
    show_envvar=True,
    help="Check this folder as a server's data directory.",
)
@json_option
def main(server: str | None, data_dir: Path | None, *, as_json: bool) -> int:
    """Check this machine, and a server, and say what to do.

    Versions, cores, memory, shared memory, limits, disk, clock, Ray; of a server the way to it, its health and version.
    The exit status is 1 if something is to be mended.
    """
    found = list(_findings(server, data_dir))
    if as_json:
        sys.stdout.write(json_text({"findings": [each._asdict() for each in found]}))
    else:
        _write(found)
    return FAILED if any(each.state == "bad" for each in found) else DONE


def _findings(address: str | None, data_dir: Path | None) -> Iterator[Finding]:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        yield from entry.load()(data_dir)
    yield ray_installed(version)
    if address is None:
        yield Finding("server", "skipped", "not asked for", "add --server HOST:PORT to check one")
        return
    yield proxy(address, os.environ)
    reached = connection(address)
    yield reached
    if reached.state != "bad":
        yield health(address)
        yield program(address, version("optimd"))


def ray_installed(version_of: Callable[[str], str]) -> Finding:
    """Ray, which is an extra."""
    try:
        return Finding("ray", "ok", f"Ray {version_of('ray')}")
    except ModuleNotFoundError:
        return Finding("ray", "skipped", "not installed", "for optimd.ray: pip install 'optimd[ray]'")


def proxy(address: str, environment: Mapping[str, str]) -> Finding:
    """Whether gRPC would take calls through a proxy."""
    host = address.rpartition(":")[0].strip("[]")
    if is_loopback(address):
        return Finding("proxy", "ok", "none is used on this machine itself")
    names = ("grpc_proxy", "https_proxy", "http_proxy")
    used = next((name for name in names if environment.get(name)), None)
    exceptions = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    if used is None or bypasses(host, {"no": exceptions}):
        return Finding("proxy", "ok", f"none is used for {host}")
    remedy = f"gRPC seldom gets through one: set no_proxy={host}"
    return Finding("proxy", "bad", f"calls to {host} go through {used}={environment[used]}", remedy)


def connection(address: str) -> Finding:
    """Whether something listens there, at any of the addresses of the name."""
    host, _, port = address.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding("connection", "bad", f"the name {host} has no address: {error}", "check the name and the DNS")
    problems = []
    for family, kind, protocol, _, place in places:
        with socket.socket(family, kind, protocol) as tried:
            tried.settimeout(CONNECT_S)
            try:
                tried.connect(place)
            except OSError as error:
                problems.append(f"{place[0]}: {error}")
                continue
            return Finding("connection", "ok", f"{address} takes connections at {place[0]}")
    remedy = f"start it (optimd serve --listen {address}), or check host, port and firewall"
    return Finding("connection", "bad", f"nothing takes connections at {address}: {'; '.join(problems)}", remedy)


def health(address: str) -> Finding:
    """What the server says of itself."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CONNECT_S)
        except grpc.RpcError as error:
            remedy = f"what listens at {address} is no optimd server, or it speaks TLS: check the port"
            return Finding("health", "bad", f"no answer: {error.code().name}: {error.details()}", remedy)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if name != "SERVING":
        return Finding("health", "bad", name, "it starts or ends: wait until it prints `serving on`, see its log")
    return Finding("health", "ok", name)


def program(address: str, own: str) -> Finding:
    """Whether it is an optimd server of this program's version."""
    try:
        with connected(address) as transport:
            answer: Any = ask(transport, address, "GetServerInfo", pb.GetServerInfoRequest())
    except OptimdError as error:
        return Finding("program", "bad", str(error), f"check that an optimd server listens at {address}")
    found = f"optimd {answer.server_version}"
    if answer.server_version != own:
        return Finding("program", "note", f"{found}; this is {own}", "install the same version on both sides")
    return Finding("program", "ok", found)


def _write(found: list[Finding]) -> None:
    width = max(len(each.check) for each in found)
    for each in found:
        text = f" {each.check:<{width}}  {printable(each.found)}"
        write(sys.stdout, (f"{SIGNS[each.state]:<5}", STYLES[each.state]), (text, ""))
        if each.remedy:
            write(sys.stdout, (f"{'':<{width + 8}}{printable(each.remedy)}", ""))
    bad = sum(each.state == "bad" for each in found)
    write(sys.stdout, ("everything is in order" if not bad else f"{bad} to be mended", "bold"))
