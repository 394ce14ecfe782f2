"""One worker of the digits job: python worker.py HOST:PORT NAME INDEX WORKERS STEPS."""

import sys

import optimd
from optimd.demo.worker import work_on

JOB = "digits"


def main() -> None:
    address, name, index, workers, steps = sys.argv[1:]
    with optimd.connect(address, job=JOB, worker=name, timeout_s=120) as worker:
        history = work_on(worker, int(index), int(workers), optimd.Adam(3e-3), int(steps))
    # A job that was finished before, on the same volume, leaves nothing to do.
    print(f"{name}: {len(history)} steps" + (f", last loss {history[-1].loss:.4f}" if history else ""))


if __name__ == "__main__":
    main()
