"""HOST:PORT, as servers are told to listen on it and clients to find it."""

from __future__ import annotations

import ipaddress
import re

PORT_MAX = 65535
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def split_address(text: str, port_min: int = 1) -> tuple[str, int]:
    """Host, an IPv6 one in its brackets, and port. Raises ValueError for anything else, with what to write instead."""
    if not isinstance(text, str):
        raise _refusal(text, ": pass one string, such as '127.0.0.1:50051'")
    host, _, port = text.rpartition(":")
    if not _is_port(port, port_min):
        raise _refusal(text, f": a port from {port_min} to {PORT_MAX} is missing")
    if _SCHEME.match(text):
        raise _refusal(text, f": leave out {text.partition('://')[0]}://")
    if not host or re.search(r"[\s/@]", host):
        raise _refusal(text, ": leave out what is not the host's name")
    if host.startswith("[") or host.endswith("]") or ":" in host:
        bare = host.removeprefix("[").removesuffix("]")
        if host != f"[{bare}]":
            raise _refusal(text, f": write an IPv6 address in brackets, [{bare}]:{port}")
        try:
            ipaddress.IPv6Address(bare)
        except ValueError as error:
            raise _refusal(text, f": {error}") from None
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether it is a loopback address for sure."""
    bare = host.strip("[]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare.lower() == "localhost"


def _is_port(text: str, port_min: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(PORT_MAX)) and port_min <= int(text) <= PORT_MAX


def _refusal(text: object, advice: str) -> ValueError:
    shown = repr(text[:200] + "…" if isinstance(text, str) and len(text) > 200 else text)
    return ValueError(f"expected HOST:PORT, got {shown}{advice}")
