"""`python -m tests.bench [NAME ...] [--json FILE] [--picture FILE]`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.chart import draw
from tests.bench.pairs import Claim, Figure

NAMES = (
    *("same_host", "one_round", "small", "tensors", "crowd", "wire", "encodings"),
    *("kernels", "asleep", "reduce", "core", "parked", "schedules"),
)
PACKAGES = ("grpcio", "numba", "numpy", "protobuf", "ray", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and the machine's description")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them as bars")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    results: dict[str, Sequence[Figure | Claim]] = {}
    for name in options.names:
        for title, figures in importlib.import_module(f"tests.bench.{name}").run().items():
            print(f"\n{name}: {title}")
            for figure in figures:
                print(f"  {figure}", flush=True)
            results[f"{name}: {title}"] = figures
    if options.json:
        plain = {title: [dataclasses.asdict(figure) for figure in figures] for title, figures in results.items()}
        options.json.write_text(json.dumps({**machine(), "results": plain}, indent=2) + "\n")
    if options.picture:
        draw(results, options.picture)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "machine": platform.platform(),
        "processor": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
