"""The actor: runs the server as its child, and ends with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass

import ray

from optimd.address import is_loopback
from optimd.ray.child import Child

_READY = "serving on "
_ANY = ("0.0.0.0", "::", "[::]")
# The answer of ended() is on its way by then.
FAREWELL_S = 1.0
TAIL_CHARACTERS = 2000
_HINT = (
    "\n{host} must be an address of the server's node, {ip}: leave host out, or choose the node with resources= or"
    " scheduling_strategy="
)


@dataclass(frozen=True)
class Place:
    """A node of the cluster."""

    node_id: str
    ip: str


class ServerActor:
    """One server. Its methods are called by several threads."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._started = threading.Event()
        self._stopping = threading.Lock()

    def __repr__(self) -> str:
        return "optimd"  # what Ray writes before each line of its log

    def place(self) -> Place:
        """Where it runs."""
        return Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())

    def start(
        self, host: str | None, port: int, arguments: list[str], timeout_s: float, *, insecure: bool
    ) -> tuple[str, str]:
        """(address, "") once it serves, or ("", what went wrong)."""
        ip = ray.util.get_node_ip_address()
        if host is None:
            others = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} - {ip}
            host = ip if insecure or others else "127.0.0.1"
            if not insecure and not is_loopback(f"{_bracketed(host)}:0"):
                return "", (
                    f"the cluster has {len(others) + 1} nodes, and there is no TLS yet: pass insecure=True to serve all"
                    f" of them on the address of the server's node ({ip}), where whoever reaches it can change every"
                    " job, or host='127.0.0.1' to serve workers on that node alone"
                )
        listen = f"--listen={_bracketed(host)}:{port}"
        command = [sys.executable, "-m", "optimd_server", "serve", listen, *arguments, "--until-stdin-closes"]
        child = self._child = Child([*command, "--insecure"] if insecure else command)
        until_s = time.monotonic() + timeout_s
        line = child.first_line(timeout_s)
        if not line.startswith(_READY):
            within = f" in {timeout_s:g} s" if time.monotonic() >= until_s else ""
            child.stop(0)
            hint = _HINT.format(host=host, ip=ip) if "cannot listen on" in child.log else ""
            return "", f"the server did not come up{within} (exit status {child.status}): {tail(child.log)}{hint}"
        self._started.set()
        threading.Thread(target=self._watch, args=(child,), name="optimd-watch", daemon=True).start()
        bound, _, bound_port = line.removeprefix(_READY).strip().rpartition(":")
        return f"{_bracketed(ip) if bound in _ANY else bound}:{bound_port}", ""

    def ended(self) -> tuple[str, str]:
        """How the server ended and the end of its log, once it has."""
        self._started.wait()
        assert self._child is not None
        self._child.ended.wait()
        return self._child.end, self._child.log

    def log(self) -> str:
        """The end of the server's log."""
        return self._child.log if self._child else ""

    def stop(self, timeout_s: float) -> tuple[int, str, str]:
        """Let it save and end. Its exit status, 0 if it had ended before; how it ended; the end of its log."""
        child = self._child
        assert child is not None
        had_ended = child.ended.is_set()
        with self._stopping:
            child.stop(timeout_s)
        return 0 if had_ended else child.status, child.end, child.log

    def _watch(self, child: Child) -> None:
        """End with the child, so that Ray knows, too."""
        child.ended.wait()
        sys.stderr.write(f"the server {child.end}\n")
        sys.stderr.flush()
        time.sleep(FAREWELL_S)
        os._exit(0 if child.status == 0 else 1)


def tail(log: str) -> str:
    """The last lines."""
    cut = log[-TAIL_CHARACTERS:]
    return (cut if cut == log else cut.partition("\n")[2]).rstrip()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
