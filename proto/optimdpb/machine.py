"""What this process may use of its machine: memory and cores, as far as a container's limits leave them.

`root` is where the file systems lie; tests have one of their own. What cannot be read limits nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
# Version 1 says "no limit" with a number close to 2^63.
_NO_LIMIT_BYTES = 1 << 62


def memory_bytes(root: Path = ROOT) -> int:
    """The machine's memory, or the least limit of the control groups that this process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_integer(folder / "memory.max") for folder in _folders(root, "")]
    limits += [_integer(folder / "memory.limit_in_bytes") for folder in _folders(root, "memory")]
    return min([physical, *(limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT_BYTES)])


def cores(root: Path = ROOT) -> int:
    """Cores that this process may run on, or as many whole ones as its control groups' quotas leave; at least 1."""
    quotas = [_quota(*_words(folder / "cpu.max")) for folder in _folders(root, "")]
    for folder in _folders(root, "cpu"):
        quotas.append(_quota(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")))
    # Who has no affinity is no Linux.
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *(int(quota) for quota in quotas if quota is not None)]))


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Of the groups this process is in, from its own up to the root; controller: "" for version 2.

    A container often sees its own group as the root, whatever its path says.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if controller in names.split(","):
            for top in [mounts, mounts / "unified"] if not controller else [mounts / names, mounts / controller]:
                group = Path(os.path.normpath("/" + path.strip("/")))
                for folder in (group, *group.parents):
                    yield top / folder.relative_to("/")


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, ValueError):
        return []


def _integer(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _quota(*words: str) -> float | None:
    """Cores, of a quota and a period in microseconds."""
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        return None
    return int(words[0]) / int(words[1])
