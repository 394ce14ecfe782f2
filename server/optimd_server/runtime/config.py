"""Limits and times of one server. Everything has a bound; units are in the names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class ServerConfig:
    """Defaults are what `optimd serve` uses."""

    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    shards: int = 1
    # Where jobs are saved and restored from; without it nothing is.
    data_dir: Path | None = None
    # Every event of every job is written here, for looking into a problem; without it none is.
    event_log_dir: Path | None = None
    # Of one job: there it says so and ends.
    event_log_bytes_max: int = 1024 * MIB
    # Whether workers on this machine may have their gradients and parameters in shared memory.
    shared_memory: bool = True
    lease_s: float = 10.0
    tick_interval_s: float = 0.25
    wait_s_max: float = 20.0
    drain_s_max: float = 30.0
    # A puller that takes nothing for so long is cut off, and so is who still reads the oldest of more than so many
    # versions, each as large as the parameters.
    pull_timeout_s: float = 30.0
    encoded_versions_max: int = 3
    # Who sends a push or an upload and no message of it for so long is cut off: what has come holds memory.
    push_timeout_s: float = 20.0
    # Half of gRPC's default message limit; the best chunk is 1 to 2 MiB.
    chunk_bytes_max: int = 2 * MIB
    step_bytes_max: int = 2 * MIB
    # Models up to here are not shared with workers: they travel in the call itself.
    inline_bytes_max: int = 64 * 1024
    # Vectors up to here are read and updated on the event loop: other threads cost more than they save.
    one_thread_bytes_max: int = 4 * MIB
    # A specification, and half of it for the schedules: the answer to GetJob holds both and fits gRPC's default limit.
    spec_bytes_max: int = 2 * MIB
    # Patterns over tensor names in a specification: each is tried on each name.
    groups_max: int = 1000
    # A job that was created and never got its parameters is removed when nobody has asked for it so long.
    upload_idle_s: float = 60.0
    # Parameters, slots and kept versions of all jobs together.
    state_bytes_max: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    # More can never fit, whatever else runs here.
    parameters_bytes_max: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    # Gradients that are staged, of all jobs together; more is refused with a delay to try again after.
    staging_bytes_max: int = field(
        default_factory=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    )
    # Calls in hand, parked ones included. Above it new ones are refused, but never a sign of life.
    calls_max: int = 8192
    # A specification must fit a message of gRPC's default limit.
    tensors_max: int = 20_000
    workers_max: int = 4096
    jobs_max: int = 64
