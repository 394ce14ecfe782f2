"""One worker of the digits job: python worker.py HOST:PORT NAME INDEX WORKERS STEPS."""

import sys

import optimd
from optimd.demo.worker import JOB, train


def main() -> None:
    address, name, index, workers, steps = sys.argv[1:]
    with optimd.connect(address, job=JOB, worker=name, timeout_s=120) as worker:
        history = train(worker, int(index), int(workers), optimd.Adam(3e-3), int(steps))
    print(f"{name}: {len(history)} steps, last loss {history[-1].loss:.4f}")


if __name__ == "__main__":
    main()
