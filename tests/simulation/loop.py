"""An asyncio event loop on simulated time, and fibers: blocking code that waits on it."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

Trace = Callable[[FrameType, str, Any], Any]


class Stuck(AssertionError):
    """Everybody waits and nothing is on its way."""


class SimulatedLoop(asyncio.base_events.BaseEventLoop):
    """Time jumps to the next timer. Work for executors runs in fibers, `executor_delay_s()` after it was asked for."""

    def __init__(self, executor_delay_s: Callable[[], float]) -> None:
        self._simulated_s = 0.0
        super().__init__()
        self._selector = self
        self._executor_delay_s = executor_delay_s
        self._queues: dict[int, _Queue] = {}
        self.failure: BaseException | None = None
        self.current: Fiber | None = None
        self.set_exception_handler(self._fail_on)

    def time(self) -> float:
        """Simulated seconds since the start."""
        return self._simulated_s

    def select(self, timeout: float | None) -> list[Any]:
        """The loop's own selector: nothing ever happens outside, so time passes."""
        if timeout is None:
            raise Stuck("nothing is scheduled any more")
        self._simulated_s += timeout
        return []

    def fail(self, error: BaseException) -> None:
        """End the run with this error, the first one counts."""
        self.failure = self.failure or error
        self.stop()

    def run(self) -> None:
        """Until stop(). Raises what fail() was given."""
        self.run_forever()
        if self.failure is not None:
            raise self.failure

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """See BaseEventLoop. What has begun goes on to its end, also if its future is cancelled."""
        future: asyncio.Future[Any] = self.create_future()
        queue = self._queues.setdefault(id(executor), _Queue(self, getattr(executor, "_max_workers", sys.maxsize)))
        self.call_later(self._executor_delay_s(), queue.add, _Work(future, partial(func, *args)))
        return future

    def crash(self, spared: asyncio.Task[Any] | None = None) -> None:
        """What runs here dies between two callbacks: tasks, but for one, and work for executors."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            queue.kill()
        for task in sorted(asyncio.all_tasks(self), key=lambda task: int(task.get_name().rpartition("-")[2])):
            if task is not spared:
                task.cancel()

    def _fail_on(self, _: Any, context: dict[str, Any]) -> None:
        self.fail(context.get("exception") or AssertionError(context["message"]))

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class _Work:
    """One call of an executor."""

    def __init__(self, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        self.future = future
        self.call = call

    def run(self) -> None:
        """Call, and tell who waits, if anybody still does."""
        try:
            result = self.call()
        except Exception as error:
            if not self.future.done():
                self.future.set_exception(error)
        else:
            if not self.future.done():
                self.future.set_result(result)


class _Queue:
    """Work for one executor, begun in order as its threads are free. `dead`: its process is."""

    def __init__(self, loop: SimulatedLoop, threads: int) -> None:
        self._loop = loop
        self._threads = threads
        self._waiting: deque[_Work] = deque()
        self._running: dict[_Work, Fiber] = {}
        self.dead = False

    def add(self, work: _Work) -> None:
        """It can begin from now on."""
        self._waiting.append(work)
        self._begin()

    def kill(self) -> None:
        """All of it ends where it is."""
        self.dead = True
        for fiber in list(self._running.values()):
            fiber.kill()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self._threads and not self.dead:
            work = self._waiting.popleft()
            if not work.future.cancelled():
                fiber = self._running[work] = Fiber(self._loop, partial(self._run, work))
                fiber.begin()

    def _run(self, work: _Work) -> None:
        try:
            work.run()
        finally:
            del self._running[work]
            if self._waiting:
                self._loop.call_soon(self._begin)


class Fiber:
    """Code that may block, one piece at a time, on the loop's thread. `frozen_until_s`: it is stopped until then.

    `trace`: what sys.settrace() takes, in force while this fiber runs.
    """

    def __init__(self, loop: SimulatedLoop, work: Callable[[], None]) -> None:
        self._loop = loop
        self._work = work
        self._greenlet = greenlet(self._run)
        self._waits_for: object = None
        self.trace: Trace | None = None
        self.frozen_until_s = 0.0
        self.over = False

    def begin(self) -> None:
        """Run up to where it first blocks."""
        self._switch(None)

    def _run(self, _: object) -> None:
        try:
            self._work()
        except GreenletExit:
            pass
        except BaseException as error:
            self._loop.fail(error)
        finally:
            sys.settrace(None)
            self.over = True

    def _switch(self, value: object) -> None:
        if self.over:
            return
        before, self._loop.current = self._loop.current, self
        self._greenlet.parent = getcurrent()
        self._greenlet.switch(value)
        self._loop.current = before

    def block(self, ticket: object) -> Any:
        """Wait until wake() with this ticket. Returns its value, or raises it if it is an exception."""
        self._waits_for = ticket
        assert self._greenlet.parent is not None
        if self.trace is not None:
            sys.settrace(None)
        value = self._greenlet.parent.switch()
        if self.trace is not None:
            sys.settrace(self.trace)
        if isinstance(value, BaseException):
            raise value
        return value

    def wake(self, ticket: object, value: object = None) -> None:
        """Let it go on, unless it waits for something else by now."""
        if self.over or self._waits_for is not ticket:
            return
        if self.frozen_until_s > self._loop.time():
            self._loop.call_at(self.frozen_until_s, self.wake, ticket, value)
            return
        self._waits_for = None
        self._switch(value)

    @property
    def frame(self) -> FrameType | None:
        """Where it waits."""
        frame: FrameType | None = self._greenlet.gr_frame
        return frame

    def untrace(self) -> None:
        """Nothing is traced any more; for the fiber itself to call."""
        self.trace = None
        sys.settrace(None)

    def interrupt(self, error: BaseException) -> None:
        """Raise it where it waits, as the handler of a signal does."""
        if self._waits_for is not None:
            self.wake(self._waits_for, error)

    def kill(self) -> None:
        """It never runs again."""
        if not self.over:
            self.over = True
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(GreenletExit)

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        ticket = object()
        self._loop.call_later(seconds, self.wake, ticket)
        self.block(ticket)
