"""What a call waits for, in the log: nobody should have to guess why a program stands still."""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from optimdpb.errors import OptimdError
from optimdpb.v1 import optimd_pb2 as pb

from optimd.surroundings import Surroundings
from optimd.transport import CallFailed, Transport

log = logging.getLogger(__name__)

# A call that has taken so long says why, and the same again after so long.
SILENCE_S = 5.0
REPEAT_S = 60.0
REASONS_MAX = 100
_NUMBER = re.compile(r"\b\d[\d.]*\b")


class Words:
    """One worker's. A reason is the same whatever numbers are in it."""

    def __init__(self, transport: Transport, surroundings: Surroundings, job: str) -> None:
        self._transport = transport
        self._surroundings = surroundings
        self._job = job
        self._said_s: dict[str, float] = {}
        self._next_look_s = 0.0
        self._retried_s = -SILENCE_S
        # By thread: none is watched twice.
        self._watched: weakref.WeakValueDictionary[int, _Call] = weakref.WeakValueDictionary()

    def look(self, waited_s: float, timeout_s: float) -> None:
        """In the background of a call: if it has taken so long, find out what it waits for.

        That is its own transfer, or what the server says that the job waits for.
        """
        if waited_s < SILENCE_S:
            self._next_look_s = 0.0
            return
        if waited_s < self._next_look_s:
            return
        self._next_look_s = min(2 * waited_s, waited_s + REPEAT_S)
        why = self._transport.moving or self._asked(timeout_s)
        if why:
            self.say(why, waited_s)

    def _asked(self, timeout_s: float) -> str:
        """What the server says; "" where the call itself tells why it is tried again."""
        try:
            report = self._transport.call("GetJob", pb.GetJobRequest(job=self._job), timeout_s)
        except CallFailed as error:
            if self._surroundings.now_s() - self._retried_s < SILENCE_S:
                return ""
            return f"no answer of the server (it hangs or is away, or the link is slow): {error}"
        except OptimdError as error:
            return str(error)
        nothing = f"the job is at step {report.header.step} and waits for nobody: the call is under way"
        return report.waiting_for or nothing

    def retrying(self, why: object, waited_s: float) -> None:
        """A call that has failed is tried again, for so long now."""
        self._retried_s = self._surroundings.now_s()
        self.say(f"trying again: {why}", waited_s)

    def say(self, why: str, waited_s: float) -> None:
        """Into the log, if a call has waited so long for that and it was not said a short while ago."""
        now_s, reason = self._surroundings.now_s(), _NUMBER.sub("#", why)
        if waited_s < SILENCE_S or now_s - self._said_s.get(reason, -REPEAT_S) < REPEAT_S:
            return
        if len(self._said_s) >= REASONS_MAX:
            self._said_s.clear()
        self._said_s[reason] = now_s
        log.warning("job %r: waiting for %.0f s: %s", self._job, waited_s, why)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look after a call of this thread in the background, where no heartbeat does."""
        me = threading.get_ident()
        if me in self._watched:
            yield
            return
        begun_s, surroundings = self._surroundings.now_s(), self._surroundings
        self._watched[me] = call = _Call()
        goes_on = weakref.ref(call)  # ends with this frame, wherever an interrupt cuts it off

        def look() -> bool:
            if goes_on() is None:
                return False
            self.look(surroundings.now_s() - begun_s, SILENCE_S)
            return True

        end: Callable[[], object] = bool
        with suppress(RuntimeError):  # no thread more, or the interpreter ends: then the call waits without words
            end = surroundings.repeat(SILENCE_S, look, f"optimd-watch-{self._job}")
        try:
            yield
        finally:
            end()
            del call


class _Call:
    """Lives as long as the call that is watched."""
