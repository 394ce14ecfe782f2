"""An asyncio event loop on simulated time, and fibers: blocking code that waits on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet


class Stuck(AssertionError):
    """Everybody waits and nothing is on its way."""


class SimulatedLoop(asyncio.base_events.BaseEventLoop):
    """Time jumps to the next timer. Executors' work runs on the loop, `executor_delay_s()` after it was asked for."""

    def __init__(self, executor_delay_s: Callable[[], float]) -> None:
        self._simulated_s = 0.0
        super().__init__()
        self._selector = self
        self._executor_delay_s = executor_delay_s
        self._executing: dict[asyncio.TimerHandle, None] = {}
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
        """See BaseEventLoop."""
        future: asyncio.Future[Any] = self.create_future()

        def execute() -> None:
            del self._executing[handle]
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        handle = self.call_later(self._executor_delay_s(), execute)
        self._executing[handle] = None
        return future

    def crash(self) -> None:
        """What runs here dies between two callbacks: tasks, and work for executors that has not run."""
        for handle in self._executing:
            handle.cancel()
        self._executing.clear()
        for task in sorted(asyncio.all_tasks(self), key=lambda task: int(task.get_name().rpartition("-")[2])):
            task.cancel()

    def _fail_on(self, _: Any, context: dict[str, Any]) -> None:
        self.fail(context.get("exception") or AssertionError(context["message"]))

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class Fiber:
    """Code that may block, one piece at a time, on the loop's thread. `frozen_until_s`: it is stopped until then."""

    def __init__(self, loop: SimulatedLoop, work: Callable[[], None]) -> None:
        self._loop = loop
        self._work = work
        self._greenlet = greenlet(self._run)
        self._waits_for: object = None
        self.frozen_until_s = 0.0
        self.over = False
        loop.call_soon(self._switch, None)

    def _run(self, _: object) -> None:
        try:
            self._work()
        except GreenletExit:
            pass
        except BaseException as error:
            self._loop.fail(error)
        finally:
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
        value = self._greenlet.parent.switch()
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
