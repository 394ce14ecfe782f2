"""Who is inside a worker: one thread at a time, and since when nobody."""

from __future__ import annotations

import sys
import threading

from optimd.surroundings import Surroundings

_THREAD = "thread"
_taking_over = threading.Lock()


class Claim:
    """Held for the time of one call of the worker: `with claim: ...`.

    Raises RuntimeError while another thread has it, and once the worker was closed.

    An interrupt may leave it held: its own thread takes it again, and another one once that thread has ended.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._holder: dict[str, int] = {}
        self._surroundings = surroundings
        self._left_s = self._entered_s = surroundings.now_s()
        self._is_closed = False

    def close(self) -> None:
        """Nobody gets it any more."""
        self._is_closed = True

    def __enter__(self) -> None:
        if self._is_closed:
            raise RuntimeError("expected an open worker, got one that was closed: connect again")
        me = threading.get_ident()
        holder = self._holder.setdefault(_THREAD, me)
        if holder != me and not self._taken_over(holder, me):
            message = f"expected one thread at a time in a worker, thread {me} came while thread {holder} is in a call"
            raise RuntimeError(f"{message}: give each thread a worker of its own")
        self._entered_s = self._surroundings.now_s()

    def __exit__(self, *_: object) -> None:
        self._left_s = self._surroundings.now_s()
        self._holder.pop(_THREAD, None)

    def idle_s(self) -> float:
        """How long nobody has been inside; 0 while somebody is."""
        if _lives(self._holder.get(_THREAD)):
            return 0.0
        return max(0.0, self._surroundings.now_s() - self._left_s)

    def inside_s(self) -> float:
        """How long somebody has been inside; 0 while nobody is."""
        return self._surroundings.now_s() - self._entered_s if _lives(self._holder.get(_THREAD)) else 0.0

    def _taken_over(self, holder: int, me: int) -> bool:
        if _lives(holder):
            return False
        with _taking_over:
            if self._holder.get(_THREAD) != holder:
                return False
            self._holder[_THREAD] = me
        return True


def _lives(thread: int | None) -> bool:
    return thread is not None and thread in sys._current_frames()
