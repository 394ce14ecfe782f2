"""Replay one seed, or explore many: python -m tests.simulation SEED [--trace] | --from A --count N [--jobs J]."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.run import explore, replay


def main() -> int:
    """Returns 0 if nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--trace", action="store_true", help="print every event of the replay")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--count", type=int, default=100, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        result = replay(options.seed, trace=options.trace)
        for line in result.trace:
            print(line)
        print(result.summary())
        if result.failure is not None:
            traceback.print_exception(result.failure)
        return result.failure is not None
    started_s = time.monotonic()
    results = explore(range(options.first, options.first + options.count), options.jobs)
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"{result.summary()}\n{result.error}")
    rounds = sum(result.rounds for result in results)
    print(f"{len(results)} seeds, {rounds} rounds, {len(failed)} failed, {time.monotonic() - started_s:.1f} s")
    return bool(failed)


sys.exit(main())
