"""Limits and times of one server. Everything has a bound; units are in the names.

Each field is a setting of `optimd serve`: an option, a variable of the environment and a key of its configuration file.
Its help is the field's, its name that of the field unless `option` says another, its range `low` to `high`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimdpb.machine import cores, memory_bytes

KIB, MIB = 1 << 10, 1 << 20


def setting(
    default: Any,
    what: str,
    low: float = 0,
    high: float = math.inf,
    *,
    option: str = "",
    unit: int = 1,
    shown: str = "",
) -> Any:
    """A field. default: a value, or a function that makes it; unit: what one of the option counts of the field's.

    shown: the default in words, where it is made.
    """
    metadata = {"what": what, "low": low, "high": high, "option": option, "unit": unit, "shown": shown}
    if isinstance(default, Callable):  # type: ignore[arg-type]
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and for whom."""

    listen: str = setting("127.0.0.1:50051", "address to listen on; port 0 picks one")
    insecure: bool = setting(False, "allow an address that is not loopback, without TLS")


@dataclass(frozen=True)
class ServerConfig:
    """Defaults are what `optimd serve` uses."""

    threads: int = setting(cores, "kernel threads", 1, 1024, shown="the cores that this process may use")
    shards: int = setting(1, "parts that every job is cut into", 1, 64)
    data_dir: Path | None = setting(None, "save jobs here at the end and when asked, restore them at the start")
    event_log_dir: Path | None = setting(
        None, "write every event of every job here, for `optimd replay`", option="event_log"
    )
    event_log_bytes_max: int = setting(1024 * MIB, "bytes of one job's events; there the log says so and ends", 1)
    shared_memory: bool = setting(
        True, "payloads of workers on this machine through shared memory; else everything over gRPC"
    )
    lease_s: float = setting(10.0, "life of a worker of which nothing is heard", 0.1, 86_400)
    tick_interval_s: float = setting(0.25, "how often leases and timeouts are looked at", 0.01, 60)
    wait_s_max: float = setting(20.0, "how long a call waits for a round before it is answered WAITING", 0, 3600)
    # Everything is saved by then.
    drain_s_max: float = setting(2.0, "how long open calls have at the end, after everything is saved", 0, 3600)
    pull_timeout_s: float = setting(30.0, "how long a puller may take nothing before it is cut off", 0.1, 3600)
    encoded_versions_max: int = setting(
        3, "versions of the parameters that are being sent; who reads an older one is cut off", 1, 100
    )
    push_timeout_s: float = setting(
        20.0, "how long a push or an upload may send nothing before it is cut off", 0.1, 3600
    )
    # Half of gRPC's default message limit; the best chunk is 1 to 2 MiB.
    chunk_bytes_max: int = setting(2 * MIB, "payload bytes in one message of a stream", 64 * KIB, 3 * MIB)
    step_bytes_max: int = setting(2 * MIB, "largest model that Step takes in one message", 0, 3 * MIB)
    inline_bytes_max: int = setting(64 * KIB, "models up to here are not shared: they travel in the call itself")
    one_thread_bytes_max: int = setting(
        4 * MIB, "models up to here are read and updated on one thread: more would cost more than they save"
    )
    # Half of it is for the schedules: the answer to GetJob holds both and fits gRPC's default limit.
    spec_bytes_max: int = setting(2 * MIB, "a specification as a message", 1, 2 * MIB)
    groups_max: int = setting(1000, "groups of a job: each of their patterns is tried on each tensor's name", 0)
    upload_idle_s: float = setting(
        60.0, "a job without parameters is removed when nobody has asked for it so long", 1, 86_400
    )
    state_bytes_max: int = setting(
        lambda: memory_bytes() // 2,
        "parameters, slots and kept versions of all jobs; a snapshot or a range test copies those of its job beside it",
        4,
        shown="half of the memory that this process may use",
    )
    parameters_bytes_max: int = setting(
        memory_bytes, "largest model; more can never fit", 4, shown="the memory that this process may use"
    )
    staging_bytes_max: int = setting(
        lambda: max(1, memory_bytes() // 2 // MIB) * MIB,
        "memory for gradients of all jobs; over it pushes are refused with a delay to try again after",
        MIB,
        option="staging_mib",
        unit=MIB,
        shown="half of the memory that this process may use",
    )
    calls_max: int = setting(8192, "calls in hand; over it new ones are refused, but no sign of life", 1)
    # A specification must fit a message of gRPC's default limit.
    tensors_max: int = setting(20_000, "tensors of a job", 1)
    workers_max: int = setting(4096, "live workers of a job", 1)
    jobs_max: int = setting(64, "jobs of this server", 1)
