"""How long and how often to try again: bounded, jittered, growing delays."""

from __future__ import annotations

from optimd.surroundings import Surroundings

DELAY_S_FIRST = 0.05
DELAY_S_MAX = 2.0


class Patience:
    """Counts the time since the server was last heard of; heard() starts it anew."""

    def __init__(self, timeout_s: float, surroundings: Surroundings) -> None:
        self._timeout_s = timeout_s
        self._surroundings = surroundings
        self.heard()

    def heard(self) -> None:
        """The server answered."""
        self._until_s = self._surroundings.now_s() + self._timeout_s
        self._delay_s = DELAY_S_FIRST

    def wait(self, delay_s: float | None = None) -> bool:
        """Sleep before the next try: the given time, or half to all of a growing delay. False once patience is over."""
        left_s = self._until_s - self._surroundings.now_s()
        if left_s <= 0:
            return False
        if delay_s is None:
            delay_s = self._delay_s * (0.5 + 0.5 * self._surroundings.jitter())
            self._delay_s = min(2 * self._delay_s, DELAY_S_MAX)
        self._surroundings.sleep(min(delay_s, left_s))
        return True
