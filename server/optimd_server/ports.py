"""Whether a port can be listened on at every address of its host; gRPC is content with one of them."""

from __future__ import annotations

import errno
import socket

# Where names have two addresses, one may not be there: IPv6 is off, or the name is of another machine as well.
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}


def check_port(host: str, port: int) -> None:
    """Raises OSError if the host has no address here, or the port is in use at one of them."""
    bare = host.strip("[]")
    found = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")] if bare == "localhost" else _addresses(bare)
    absent: OSError | None = None
    free = 0
    for family, address in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
            free += 1
        except OSError as error:
            if error.errno not in _ABSENT:
                raise OSError(f"cannot listen on {host}:{port}: {address}: {error.strerror}") from error
            absent = error
    if not free:
        why = absent.strerror if absent is not None else "it has no address"
        raise OSError(f"cannot listen on {host}:{port}: {why}") from absent


def _addresses(host: str) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(f"cannot listen on {host}: no machine of that name is known: {error.strerror}") from error
    return [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found]
