"""Kernel threads: every share once, errors come out, callers take turns."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from optimd_server.runtime.threads import KernelThreads


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_share_runs_once_and_run_waits(threads: int) -> None:
    pool, shares = KernelThreads(threads), []

    def work(thread: int, of: int) -> None:
        time.sleep(0.01 * thread)
        shares.append((thread, of))

    for _ in range(3):
        shares.clear()
        pool.run(work)
        assert sorted(shares) == [(thread, threads) for thread in range(threads)]
    pool.close()


@pytest.mark.parametrize("culprit", [0, 2])
def test_an_error_of_any_thread_is_raised_once_all_are_done(culprit: int) -> None:
    pool, done = KernelThreads(3), []

    def work(thread: int, of: int) -> None:
        if thread == culprit:
            raise RuntimeError(f"share {thread}")
        time.sleep(0.05)
        done.append(thread)

    with pytest.raises(RuntimeError, match=f"share {culprit}"):
        pool.run(work)
    assert sorted(done) == [thread for thread in range(3) if thread != culprit]
    pool.run(lambda thread, of: done.append(thread))
    assert len(done) == 5
    pool.close()


def test_callers_take_turns() -> None:
    """Shares of two calls never run at once, and no call returns before its own are done."""
    pool, running, most = KernelThreads(3), set(), 0
    lock = threading.Lock()

    def call(number: int) -> None:
        nonlocal most
        finished = []

        def work(thread: int, of: int) -> None:
            nonlocal most
            with lock:
                running.add((number, thread))
                most = max(most, len({who for who, _ in running}))
            time.sleep(0.002)
            with lock:
                running.discard((number, thread))
                finished.append(thread)

        pool.run(work)
        assert sorted(finished) == [0, 1, 2]

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(call, range(40)))
    assert most == 1
    pool.close()


def test_close_ends_the_threads() -> None:
    before = set(threading.enumerate())
    pool = KernelThreads(4)
    own = set(threading.enumerate()) - before
    assert len(own) == 3
    pool.close()
    for thread in own:
        thread.join(10)
        assert not thread.is_alive()
