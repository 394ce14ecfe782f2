"""The runtime's own kernel threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[int, int], None]


class KernelThreads:
    """A fixed number of threads that run one kernel together, each its own share. Kernels release the GIL.

    The calling thread is one of them. The others wait on a bare queue each: a hand-over through an executor's futures
    takes as long as an update of half a million parameters.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._work: list[SimpleQueue[Work | None]] = [SimpleQueue() for _ in range(1, threads)]
        self._turn = threading.Lock()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        for place, queue in enumerate(self._work, 1):
            name = f"optimd-kernel-{place}"
            threading.Thread(target=self._serve, args=(place, queue), name=name, daemon=True).start()

    def run(self, work: Work) -> None:
        """Run work(thread, threads) on every thread and wait. Raises what one of them raised.

        Calls from several threads take turns: each would slow the other down.
        """
        with self._turn:
            for queue in self._work:
                queue.put(work)
            errors: list[BaseException | None] = []
            try:
                work(0, self.threads)
            finally:
                errors = [self._done.get() for _ in self._work]
        for error in errors:
            if error is not None:
                raise error

    @staticmethod
    def run_inline(work: Work) -> None:
        """Run all of the work on the calling thread: for vectors so small that a hand-over costs more."""
        work(0, 1)

    def close(self) -> None:
        """End the threads once idle."""
        for queue in self._work:
            queue.put(None)

    def _serve(self, place: int, queue: SimpleQueue[Work | None]) -> None:
        while (work := queue.get()) is not None:
            try:
                work(place, self.threads)
            except BaseException as error:  # handed to the caller of run()
                self._done.put(error)
            else:
                self._done.put(None)
