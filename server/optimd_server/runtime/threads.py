"""The runtime's own kernel threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue

# Does items start to stop of a job on the thread of that number.
Work = Callable[[int, int, int], None]

# So many portions of a job for each thread: a thread that wakes late or is held up leaves its share to the others.
PORTIONS_PER_THREAD = 4


class _Job:
    """Items that threads take in portions until none is left. The interpreter's lock makes each take atomic."""

    def __init__(self, work: Work, items: int, threads: int) -> None:
        self._work = work
        self._items = items
        self._portion = max(1, -(-items // (PORTIONS_PER_THREAD * threads)))
        self._starts = itertools.count(0, self._portion)
        self.closed = False

    def help(self, thread: int) -> None:
        """Take portions until none is left."""
        while (start := next(self._starts)) < self._items:
            self._work(thread, start, min(start + self._portion, self._items))


class KernelThreads:
    """A fixed number of threads that run one kernel together. Kernels release the interpreter's lock.

    The calling thread is one of them and starts at once; the others join as they wake, which takes as long as updating
    a few hundred thousand parameters. Nobody waits for one that comes when all is done.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._turn = threading.Lock()
        self._joining = threading.Lock()
        self._jobs: list[SimpleQueue[_Job | None]] = [SimpleQueue() for _ in range(1, threads)]
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._joined = 0
        for number, queue in enumerate(self._jobs, 1):
            name = f"optimd-kernel-{number}"
            threading.Thread(target=self._serve, args=(number, queue), name=name, daemon=True).start()

    def run(self, work: Work, items: int) -> None:
        """work(thread, start, stop) for runs that cover 0 to items, each once; returns when all have ended.

        Raises what one of them raised. Calls from several threads take turns: each would slow the other down.
        """
        with self._turn:
            job = _Job(work, items, self.threads)
            self._joined = 0
            errors: list[BaseException | None] = []
            try:
                for queue in self._jobs:
                    queue.put(job)
                job.help(0)
            finally:
                with self._joining:
                    job.closed = True
                errors = [self._done.get() for _ in range(self._joined)]
        for error in errors:
            if error is not None:
                raise error

    @staticmethod
    def run_inline(work: Work, items: int) -> None:
        """All of it on the calling thread."""
        work(0, 0, items)

    def close(self) -> None:
        """End the threads once idle."""
        for queue in self._jobs:
            queue.put(None)

    def _serve(self, number: int, queue: SimpleQueue[_Job | None]) -> None:
        while (job := queue.get()) is not None:
            with self._joining:
                if job.closed:
                    continue
                self._joined += 1
            try:
                job.help(number)
            except BaseException as error:  # handed to the caller of run()
                self._done.put(error)
            else:
                self._done.put(None)
