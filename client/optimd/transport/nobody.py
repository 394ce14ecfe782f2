"""Why a server that has never been heard of cannot be reached, in words, and whether it is worth to try again."""

from __future__ import annotations

import socket
import ssl

import grpc

from optimd.address import proxy_of

PROBE_S = 2.0
# What gRPC says in its own words, and what it means.
_NO_GRPC = ("Failed parsing HTTP/2", "http1.x server")
_CUT = ("Socket closed", "Connection reset", "Broken pipe", "recvmsg")
_MEANINGS = (
    (("Connection refused",), "nothing listens there: it has not started yet, or host or port are others"),
    (("before receiving SETTINGS",), "what listens there says nothing: another program, or a server that hangs"),
    (_CUT, "what listens there ends the connection at once"),
    (("lookup", "DNS resolution", "Domain name not found"), "no machine of that name is known"),
    (("unreachable", "No route"), "there is no way there from here"),
    (("timed out", "Timeout", "Deadline"), "nothing answers there: a firewall, or a machine that is off"),
)


def why_nobody(address: str, code: grpc.StatusCode, details: str) -> tuple[str, bool]:
    """What to tell the user, and whether it is certain that no optimd server is there. May take PROBE_S."""
    proxy = proxy_of(address)
    through = f"the way there is {proxy}: add the host to no_proxy if it is reached without" if proxy else ""
    found = ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        found = "a gRPC server answers there that is none of optimd's"
    elif any(part in details for part in _NO_GRPC):
        found = "what answers there does not speak gRPC: a web server, perhaps"
    elif not proxy and any(part in details for part in _CUT) and _speaks_tls(address):
        found = "a server with TLS answers there, and optimd's have none"
    if found:
        check = "; ".join(filter(None, ("check host and port, `optimd serve` prints both", through)))
        return f"no optimd server at {address}: {found}; {check} ({_last(details)})", True
    meaning = next((text for parts, text in _MEANINGS if any(part in details for part in parts)), "")
    words = through or meaning
    return f"no answer of {address}{': ' if words else ''}{words} ({_last(details)})", False


def _last(details: str) -> str:
    """The end of gRPC's chain of causes."""
    return " ".join(details.rpartition("last error: ")[2].split())[:300]


def _speaks_tls(address: str) -> bool:
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_S) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return error.reason not in (None, "WRONG_VERSION_NUMBER")  # refused by a server that does speak it
    except (OSError, ValueError):
        return False
