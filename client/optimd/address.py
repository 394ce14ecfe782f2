"""Where a server is: HOST:PORT, and through which proxy gRPC goes there."""

from __future__ import annotations

import os

from optimdpb import address as addresses

# As gRPC reads them; the first that is set counts.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def check_address(text: str) -> str:
    """HOST:PORT as it is. Raises ValueError for anything else."""
    addresses.split_address(text)
    return text


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine for sure; the wildcard that a server listens on is."""
    host = address.rpartition(":")[0].rpartition("/")[2].lower()
    return addresses.is_loopback(host) or host.endswith(".localhost") or host in ("0.0.0.0", "[::]")


def proxy_of(address: str) -> str:
    """The proxy that gRPC takes to HOST:PORT, in words, without a password; "" if none."""
    if is_loopback(address):
        return ""
    host = address.rpartition(":")[0].strip("[]")
    excepted = next((value for name in _EXCEPTIONS if (value := os.environ.get(name))), "")
    if any(host.endswith(part.strip()) for part in excepted.split(",") if part.strip()):
        return ""
    name = next((name for name in _PROXIES if os.environ.get(name)), "")
    return f"the proxy {os.environ[name].rpartition('@')[2]} that {name} names" if name else ""
