"""How long and how often to try again: bounded, jittered, growing delays."""

from __future__ import annotations

from optimd.surroundings import Surroundings
from optimd.words import Words

DELAY_S_FIRST = 0.05
DELAY_S_MAX = 2.0
# So often running a failed transfer that moved bytes is no reason to give up.
TRANSFERS_MAX = 3


class Patience:
    """Counts the time since the first failure running; heard() ends the run. `why`: what to say once it is over.

    Not the time before it: what has taken longer than timeout_s by itself deserves another try all the more.
    """

    def __init__(self, timeout_s: float, surroundings: Surroundings, words: Words | None = None) -> None:
        self._words = words
        self._timeout_s = timeout_s
        self._surroundings = surroundings
        self.why = "the server cannot be reached"
        self.heard()

    def heard(self) -> None:
        """Something got on: an outcome, a push that waits, the answer to a call."""
        self._until_s: float | None = None
        self._failing_since_s: float | None = None
        self._transfers = 0
        self._delay_s = DELAY_S_FIRST

    def wait(self, delay_s: float | None = None, *, moved: bool = False, why: object = "") -> bool:
        """Sleep before the next try: the given time, or half to all of a growing delay. False once patience is over,
        and where the server is known to have ended.

        moved: the failed call had moved many bytes; the time counts from here then, a few times running. why: what the
        log says of it.
        """
        end = self._surroundings.server_end()
        if end:
            self.why = end
            return False
        now_s = self._surroundings.now_s()
        self._transfers += moved
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if self._words is not None:
            self._words.retrying(why, now_s - self._failing_since_s)
        if self._until_s is None or (moved and self._transfers <= TRANSFERS_MAX):
            self._until_s = now_s + self._timeout_s
        left_s = self._until_s - now_s
        if left_s <= 0:
            return False
        if delay_s is None:
            delay_s = self._delay_s * (0.5 + 0.5 * self._surroundings.jitter())
            self._delay_s = min(2 * self._delay_s, DELAY_S_MAX)
        self._surroundings.sleep(min(delay_s, left_s))
        return True
