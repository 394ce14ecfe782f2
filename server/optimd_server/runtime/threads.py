"""The runtime's own kernel threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait


class KernelThreads:
    """A fixed number of threads that run one kernel together, each its own share. Kernels release the GIL."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="optimd-kernel")

    def run(self, work: Callable[[int, int], None]) -> None:
        """Run work(thread, threads) on every thread and wait. Raises what any of them raised."""
        futures = [self._executor.submit(work, thread, self.threads) for thread in range(1, self.threads)]
        work(0, self.threads)
        wait(futures)
        for future in futures:
            future.result()

    @staticmethod
    def run_inline(work: Callable[[int, int], None]) -> None:
        """Run all of the work on the calling thread: for vectors so small that a hand-over costs more."""
        work(0, 1)

    def close(self) -> None:
        """End the threads once idle."""
        self._executor.shutdown()
