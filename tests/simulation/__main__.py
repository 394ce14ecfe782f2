"""Replay one seed, explore many, or look for the seeds that find planted bugs.

python -m tests.simulation SEED [--trace] [--bug NAME] | [--first SEED] [--count N] [--jobs N] | --bugs
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import traceback

from tests.simulation.run import explore, find_bugs, replay
from tests.simulation.turnover_bugs import BUGS


def main() -> int:
    """Returns 0 if nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--trace", action="store_true", help="print every event of the replay")
    parser.add_argument("--bug", choices=sorted(BUGS), help="with this defect put in")
    parser.add_argument("--bugs", action="store_true", help="the first of --count seeds that finds each planted bug")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--count", type=int, default=100, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        with BUGS[options.bug]() if options.bug else contextlib.nullcontext():
            result = replay(options.seed, trace=options.trace)
        for line in result.trace:
            print(line)
        print(result.summary())
        if result.failure is not None:
            traceback.print_exception(result.failure)
        return result.failure is not None
    if options.bugs:
        for name, seed, error in find_bugs(options.count, options.jobs):
            print(f'    "{name}": {seed},  # {error[:100]}', flush=True)
        return 0
    started_s = time.monotonic()
    results = explore(range(options.first, options.first + options.count), options.jobs)
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"{result.summary()}\n{result.error}")
    rounds = sum(result.rounds for result in results)
    print(f"{len(results)} seeds, {rounds} rounds, {len(failed)} failed, {time.monotonic() - started_s:.1f} s")
    return bool(failed)


sys.exit(main())
