"""`python -m tests.bench [NAME ...] [--json FILE]`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
from pathlib import Path

NAMES = (
    *("same_host", "one_round", "small", "tensors", "crowd", "wire", "encodings"),
    *("kernels", "asleep", "reduce", "core", "parked", "schedules"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    results = {}
    for name in options.names:
        for title, figures in importlib.import_module(f"tests.bench.{name}").run().items():
            print(f"\n{name}: {title}")
            for figure in figures:
                print(f"  {figure}")
            results[f"{name}: {title}"] = [dataclasses.asdict(figure) for figure in figures]
    if options.json:
        machine = {
            "machine": platform.platform(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
