"""Where a server is: HOST:PORT."""

from __future__ import annotations

import ipaddress


def check_address(text: str) -> str:
    """HOST:PORT as it is. Raises ValueError for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return text


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine for sure."""
    host = address.rpartition(":")[0].rpartition("/")[2].strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
