"""What operators read in the server's log: one line for each thing that happened, but no flood of the same."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable

EVERY_S = 10.0
# Kinds that are remembered; what is forgotten is said again.
KINDS_MAX = 4096


class Reports:
    """Says the first of a kind at once, then one in each EVERY_S with the count of those left out since."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        # When each kind was last said, and how many came since.
        self._said: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def say(self, level: int, kind: Hashable, text: str, *arguments: object) -> None:
        """As Logger.log(), for a thing of this kind."""
        now_s = self._clock()
        said_s, left_out = self._said.get(kind, (-EVERY_S, 0))
        if now_s - said_s < EVERY_S:
            self._said[kind] = said_s, left_out + 1
            return
        self._said[kind] = now_s, 0
        self._said.move_to_end(kind)
        if len(self._said) > KINDS_MAX:
            self._said.popitem(last=False)
        more = f" ({left_out} more like it were left out)" if left_out else ""
        line = text % arguments + more
        # Names and words of strangers are in it: they begin no line of their own, and no command of a terminal.
        self._logger.log(level, "%s", "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
