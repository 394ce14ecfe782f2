"""`optimd serve`: start, say when ready, stop in order."""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimdpb.errors import Refused

from optimd_server.optimizers.warmup import compile_kernels
from optimd_server.runtime import Runtime, ServerConfig
from optimd_server.runtime.config import MIB
from optimd_server.runtime.memory import keep_freed_memory
from optimd_server.service import Service

log = logging.getLogger("optimd_server")

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """The module's own entry: only `serve`."""
    if not argv or argv[0] != "serve":
        print("usage: python -m optimd_server serve [--listen HOST:PORT] ...", file=sys.stderr)
        return EXIT_USAGE
    return serve(argv[1:])


def serve(argv: list[str]) -> int:
    """Run a server until SIGTERM or SIGINT. Returns 0 after an orderly end, 1 on failure, 2 on wrong usage."""
    options = _parser().parse_args(argv)
    try:
        host, port = _split_address(options.listen)
        _check_exposure(host, options.insecure)
        config = _config(options)
    except ValueError as error:
        print(f"optimd serve: {error}", file=sys.stderr)
        return EXIT_USAGE
    _raise_open_files_limit()
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    started_s = time.monotonic()
    compile_kernels()
    # What the compiler has left is for ever: to look through it for garbage would stop all calls for 0.1 s.
    gc.collect()
    gc.freeze()
    log.info("kernels ready in %.1f s", time.monotonic() - started_s)
    try:
        asyncio.run(_run(host, port, config, watch_stdin=options.until_stdin_closes))
    except (OSError, Refused) as error:
        print(f"optimd serve: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


async def _run(host: str, port: int, config: ServerConfig, *, watch_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    runtime = Runtime(config)
    service = Service(runtime)
    bound = await service.start(host, port)
    print(f"serving on {host}:{bound}", flush=True)
    if watch_stdin:
        _call_when_stdin_closes(lambda: loop.call_soon_threadsafe(stop.set))
    await stop.wait()
    log.info("draining")
    await service.stop()


def _raise_open_files_limit() -> None:
    """Every worker is a connection: the usual soft limit of 1,024 would turn the thousandth away."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _call_when_stdin_closes(callback: Callable[[], object]) -> None:
    """The parent holds the other end: it closes even when the parent is killed."""

    def wait_for_end() -> None:
        # The bare descriptor: a thread inside sys.stdin at exit would hold a lock that the interpreter wants.
        while os.read(0, 4096):
            pass
        callback()

    threading.Thread(target=wait_for_end, name="optimd-stdin", daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="optimd serve", description="Serve jobs over gRPC.", allow_abbrev=False)
    parser.add_argument("--listen", default="127.0.0.1:50051", metavar="HOST:PORT", help="port 0 picks one")
    parser.add_argument("--insecure", action="store_true", help="allow an address that is not loopback, without TLS")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="save jobs here at the end, restore them at start")
    parser.add_argument("--event-log", type=Path, metavar="DIR", help="write every event here, for `optimd replay`")
    parser.add_argument("--shards", type=int, metavar="N", help="parts that every job is cut into (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="kernel threads (default: one for each core)")
    parser.add_argument("--staging-mib", type=int, metavar="N", help="memory for gradients (default: half of all)")
    parser.add_argument("--lease-s", type=float, metavar="S", help="life of a silent worker (default: 10)")
    parser.add_argument("--no-shared-memory", action="store_true", help="everything over gRPC, on this machine too")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end in order when stdin reaches its end")
    return parser


def _config(options: argparse.Namespace) -> ServerConfig:
    given: dict[str, Any] = {
        "data_dir": options.data_dir,
        "event_log_dir": options.event_log,
        "shared_memory": not options.no_shared_memory,
    }
    for name, low, high in (("threads", 1, 1024), ("shards", 1, 64), ("lease_s", 0.1, 86_400)):
        value = getattr(options, name)
        if value is None:
            continue
        if not low <= value <= high:
            raise ValueError(f"--{name.replace('_', '-')}: expected {low} to {high}, got {value}")
        given[name] = value
    if options.staging_mib is not None:
        if options.staging_mib < 1:
            raise ValueError(f"--staging-mib: expected at least 1, got {options.staging_mib}")
        given["staging_bytes_max"] = options.staging_mib * MIB
    return ServerConfig(**given)


def _split_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--listen: expected HOST:PORT, got {address!r}")
    return host, int(port)


def _check_exposure(host: str, insecure: bool) -> None:
    """Anybody who reaches the port can read and change every job, so leaving loopback must be said aloud."""
    name = host.strip("[]")
    try:
        loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = name == "localhost"
    if not loopback and not insecure:
        raise ValueError(f"--listen: {host} is not loopback and there is no TLS yet: add --insecure to allow it")
