"""Whether a transfer moves. A stream has no deadline of its own: it may take as long as it gets on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 1.0
# What vanishes into buffers on the way says nothing about the other end.
BUFFERED_BYTES_MAX = 4 << 20
# These buffers are given so long to empty themselves.
LINK_BYTES_PER_S_MIN = 1e5


class Moving:
    """How far a transfer has come, and when it last did. `stall_s`: how long it may stand. `is_over`: given up."""

    def __init__(self, size_bytes: int, stall_s: float, *, is_sending: bool) -> None:
        self.stall_s = stall_s
        self._size_bytes = size_bytes
        self._way = "gone out" if is_sending else "come"
        self._buffered_bytes_max = BUFFERED_BYTES_MAX if is_sending else 0
        self._moved_s = time.monotonic()
        self._moved_bytes = 0
        self.is_over = False
        self._ended = threading.Event()

    def on(self, size_bytes: int) -> None:
        """So many more bytes have moved."""
        self._moved_s, self._moved_bytes = time.monotonic(), self._moved_bytes + size_bytes

    @property
    def moved(self) -> bool:
        """Whether many bytes have got through."""
        return self._moved_bytes >= BUFFERED_BYTES_MAX

    @property
    def stands_still(self) -> bool:
        """Whether nothing has moved for longer than it may."""
        empty_s = min(self._moved_bytes, self._buffered_bytes_max) / LINK_BYTES_PER_S_MIN
        return time.monotonic() - self._moved_s > self.stall_s + empty_s

    @property
    def words(self) -> str:
        """How far it has come; "" where nothing has moved, or all has and an answer is waited for."""
        if self.is_over or not 0 < self._moved_bytes < self._size_bytes:
            return ""
        size_mb, moved_mb = self._size_bytes / 1e6, self._moved_bytes / 1e6
        ago_s = time.monotonic() - self._moved_s
        return f"{moved_mb:.1f} of {size_mb:.1f} MB have {self._way}, the last of them {ago_s:.0f} s ago"

    def watch(self, cancel: Callable[[], object]) -> None:
        """Cancel the transfer, from a thread, once it stands still. The thread ends soon after the transfer."""

        def run() -> None:
            while not self._ended.wait(LOOK_S):
                if self.stands_still:
                    cancel()
                    return

        threading.Thread(target=run, name="optimd-transfer", daemon=True).start()

    def end(self) -> None:
        """Nobody waits for it any more."""
        self.is_over = True
        self._ended.set()
