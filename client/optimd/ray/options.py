"""The options of `optimd serve`, by their names with underscores."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, TypedDict


class ServeOptions(TypedDict, total=False):
    """Every setting of `optimd serve` but where to listen. Paths are those of the server's node."""

    threads: int
    shards: int
    data_dir: str | os.PathLike[str]
    event_log: str | os.PathLike[str]
    event_log_bytes_max: int
    shared_memory: bool
    lease_s: float
    tick_interval_s: float
    wait_s_max: float
    drain_s_max: float
    pull_timeout_s: float
    encoded_versions_max: int
    push_timeout_s: float
    chunk_bytes_max: int
    step_bytes_max: int
    inline_bytes_max: int
    one_thread_bytes_max: int
    spec_bytes_max: int
    groups_max: int
    upload_idle_s: float
    state_bytes_max: int
    parameters_bytes_max: int
    staging_mib: int
    calls_max: int
    tensors_max: int
    workers_max: int
    jobs_max: int


NAMES = frozenset(ServeOptions.__annotations__)


def arguments_of(options: Mapping[str, Any]) -> list[str]:
    """The command line. Relative paths are from this process's folder. Raises TypeError for an unknown name."""
    made: list[str] = []
    for name, value in options.items():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1) or ["optimd serve --help"]
            raise TypeError(f"expected an option of optimd serve, got {name!r}: see {near[0]}")
        option = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            made.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, str | os.PathLike):
            made.append(f"{option}={os.path.abspath(os.path.expanduser(value))}")
        else:
            made.append(f"{option}={value}")
    return made
