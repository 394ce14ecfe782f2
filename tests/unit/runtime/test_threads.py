"""Kernel threads: every item once, errors come out, callers take turns, nobody waits for who comes too late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from optimd_server.runtime.threads import KernelThreads


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 2, 3, 7, 100, 1001])
def test_every_item_is_done_once_when_run_returns(threads: int, items: int) -> None:
    pool = KernelThreads(threads)
    for _ in range(5):
        done: list[int] = []

        def work(thread: int, start: int, stop: int, done: list[int] = done) -> None:
            assert 0 <= thread < threads
            assert start < stop
            time.sleep(0.0005)
            done.extend(range(start, stop))

        pool.run(work, items)
        assert sorted(done) == list(range(items))
    pool.close()


def test_all_threads_help_with_a_long_job() -> None:
    pool, helpers = KernelThreads(3), set()

    def work(thread: int, start: int, stop: int) -> None:
        helpers.add((thread, threading.current_thread().name))
        time.sleep(0.05)

    pool.run(work, 100)
    assert {thread for thread, _ in helpers} == {0, 1, 2}
    assert len({name for _, name in helpers}) == 3, "each thread has a number of its own"
    pool.close()


def test_nobody_waits_for_a_thread_that_comes_too_late() -> None:
    """The other thread is held up before it can join; run returns, and the late one does nothing."""
    pool, threads = KernelThreads(2), []
    with pool._joining:
        helper = threading.Thread(target=pool.run, args=(lambda thread, start, stop: threads.append(thread), 1))
        helper.start()
        time.sleep(0.05)
        assert threads == [0], "the caller went on by itself"
    helper.join(10)
    assert not helper.is_alive()
    pool.run(lambda thread, start, stop: threads.append(9), 1)
    assert threads == [0, 9]
    pool.close()


@pytest.mark.parametrize("culprit", [0, 7, 99])
def test_an_error_of_any_thread_is_raised_once_all_have_ended(culprit: int) -> None:
    pool, running = KernelThreads(3), []

    def work(thread: int, start: int, stop: int) -> None:
        running.append(thread)
        time.sleep(0.005)
        running.remove(thread)
        if start <= culprit < stop:
            raise RuntimeError(f"item {culprit}")

    with pytest.raises(RuntimeError, match=f"item {culprit}"):
        pool.run(work, 100)
    assert running == []
    done: list[int] = []
    pool.run(lambda thread, start, stop: done.extend(range(start, stop)), 100)
    assert sorted(done) == list(range(100)), "the pool is as good as new"
    pool.close()


def test_callers_take_turns() -> None:
    """Parts of two calls never run at once, and no call returns before its own are done."""
    pool, running, most = KernelThreads(3), set(), 0
    lock = threading.Lock()

    def call(number: int) -> None:
        nonlocal most
        finished: list[int] = []

        def work(thread: int, start: int, stop: int) -> None:
            nonlocal most
            with lock:
                running.add((number, thread))
                most = max(most, len({who for who, _ in running}))
            time.sleep(0.001)
            with lock:
                running.discard((number, thread))
                finished.extend(range(start, stop))

        pool.run(work, 24)
        assert sorted(finished) == list(range(24))

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
