"""Memory and cores as far as control groups leave them, on machines that are folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from optimdpb import machine
from optimdpb.machine import cores, memory_bytes

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20
CPUS = 16
V1 = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(CPUS)))


def root_of(tmp_path: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine where this process is in these groups; files under /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": t for name, t in files.items()}}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


MEMORY = {
    "a container that is its own root": ("0::/\n", {"memory.max": f"{600 * MIB}\n"}, 600 * MIB),
    "no limit": ("0::/\n", {"memory.max": "max\n"}, PHYSICAL),
    "a slice above has one": (
        "0::/system.slice/optimd.service\n",
        {"system.slice/optimd.service/memory.max": "max\n", "system.slice/memory.max": f"{300 * MIB}\n"},
        300 * MIB,
    ),
    "the least of several": (
        "0::/a/b\n",
        {"a/b/memory.max": f"{500 * MIB}\n", "a/memory.max": f"{900 * MIB}\n"},
        500 * MIB,
    ),
    "more than there is": ("0::/\n", {"memory.max": f"{PHYSICAL * 2}\n"}, PHYSICAL),
    "version 1": (V1, {"memory/docker/abc/memory.limit_in_bytes": f"{200 * MIB}\n"}, 200 * MIB),
    "version 1, its own root": (V1, {"memory/memory.limit_in_bytes": f"{200 * MIB}\n"}, 200 * MIB),
    "version 1, no limit": (V1, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),
    "a path beyond the root": ("0::/../..\n", {"memory.max": f"{100 * MIB}\n"}, 100 * MIB),
    "nonsense": ("what\n:::\n0::\n", {"memory.max": "much\n"}, PHYSICAL),
    "empty": ("", {"memory.max": ""}, PHYSICAL),
    "none": ("0::/\n", {"memory.max": "0\n"}, PHYSICAL),
}
CORES = {
    "two and a half": ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
    "half of one": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, CPUS),
    "a slice above has one": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000\n"}, CPUS),
    "version 1": (
        V1,
        {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "version 1, linked": (V1, {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    "version 1, no limit": (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CPUS),
    "nonsense": ("0::/\n", {"cpu.max": "much more\n"}, CPUS),
    "no period": ("0::/\n", {"cpu.max": "100000 0\n"}, CPUS),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory(tmp_path: Path, case: str) -> None:
    groups, files, expected = MEMORY[case]
    assert memory_bytes(root_of(tmp_path, groups, files)) == expected


@pytest.mark.parametrize("case", CORES)
def test_cores(tmp_path: Path, case: str) -> None:
    groups, files, expected = CORES[case]
    assert cores(root_of(tmp_path, groups, files)) == expected


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert (memory_bytes(tmp_path), cores(tmp_path)) == (PHYSICAL, CPUS)
