"""Faults at the seams of a server: calls from its runtime into storage, event log, shards, threads and sockets.

Every function of the classes and modules below is a seam, so that what is added to them is met by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

from optimd_server.core import JobMachine
from optimd_server.runtime import eventlog
from optimd_server.runtime.budget import JobStaging, StagingBudget
from optimd_server.runtime.encoded import ParameterMessages
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.sharing import JobSharing
from optimd_server.runtime.threads import KernelThreads
from optimd_server.service.handover import Handover
from optimd_server.service.local import LocalServer
from optimd_server.state import Claim, Shard, SharedSegment
from optimd_server.state.past import PastVersions
from optimd_server.state.staging import ChunkedVector
from optimd_server.storage import DataDirectory, directory, snapshot

OWNERS: tuple[type | ModuleType, ...] = (
    ShardGroup,
    Shard,
    PastVersions,
    ChunkedVector,
    Claim,
    SharedSegment,
    JobSharing,
    StagingBudget,
    JobStaging,
    ParameterMessages,
    KernelThreads,
    DataDirectory,
    directory,
    snapshot,
    eventlog,
    Handover,
    LocalServer,
    JobMachine,
)
# The very end of a process, what is called outside it, and what takes one entry from a list.
LEFT_OUT = {"DataDirectory.close", "eventlog.read_event_log", "JobStaging.leave"}
# What raises behind these has done what cannot be told from their having been called in vain.
NEVER_AFTER = ("__init__", "mark_running")
ERRORS: tuple[type[Exception], ...] = (OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Fault:
    """The call-th call of a seam raises, before or after it has done what it does."""

    seam: str
    call: int
    error: type[Exception]
    after: bool

    def __str__(self) -> str:
        return f"{self.error.__name__} {'after' if self.after else 'at'} call {self.call} of {self.seam}"


class Seams:
    """Counts the calls of every seam while it is entered; one fault may be in it. `calls` by seam."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.raised = False
        self._fault = fault
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def entered(self) -> Iterator[Seams]:
        """The functions are replaced meanwhile."""
        with contextlib.ExitStack() as stack:
            for owner, name, function in functions():
                seam = f"{owner.__name__.rpartition('.')[2]}.{name}"
                stack.enter_context(patch.object(owner, name, self._wrapped(seam, function)))
            for owner, name in ((asyncio.BaseEventLoop, "run_in_executor"), (socket, "send_fds")):
                function = getattr(owner, name)
                stack.enter_context(patch.object(owner, name, self._wrapped(name, function)))
            yield self

    def _wrapped(self, seam: str, function: Callable[..., Any]) -> Callable[..., Any]:
        is_handle = seam == "JobMachine.handle"

        def call(*arguments: Any, **named: Any) -> Any:
            key = f"{seam}({type(arguments[1]).__name__})" if is_handle else seam
            due = self._due(key)
            if due is not None and not due.after:
                raise due.error("put here by a campaign")
            result = function(*arguments, **named)
            if due is not None:
                raise due.error("put here by a campaign, behind the call")
            return result

        async def call_async(*arguments: Any, **named: Any) -> Any:
            due = self._due(seam)
            if due is not None and not due.after:
                raise due.error("put here by a campaign")
            result = await function(*arguments, **named)
            if due is not None:
                raise due.error("put here by a campaign, behind the call")
            return result

        return call_async if inspect.iscoroutinefunction(function) else call

    def _due(self, seam: str) -> Fault | None:
        fault = self._fault
        with self._lock:
            self.calls[seam] += 1
            if fault is None or fault.seam != seam or self.calls[seam] != fault.call:
                return None
            self.raised = True
        return fault


def functions() -> list[tuple[Any, str, Any]]:
    """Owner, name and function of every seam."""
    found = []
    for owner in OWNERS:
        for name, member in vars(owner).items():
            own = inspect.isfunction(member) and (not isinstance(owner, ModuleType) or name in owner.__dict__)
            hidden = name.startswith("__") and name != "__init__"
            if own and not hidden and f"{owner.__name__.rpartition('.')[2]}.{name}" not in LEFT_OUT:
                found.append((owner, name, member))
    return found


def faults_of(calls: Counter[str]) -> list[Fault]:
    """One of each kind at the first, the middle and the last call of every seam; the errors take turns."""
    found = []
    for number, (seam, count) in enumerate(sorted(calls.items())):
        for place, call in enumerate(sorted({1, (count + 1) // 2, count})):
            for after in (False,) if seam.endswith(NEVER_AFTER) else (False, True):
                error = ERRORS[(number + place + after) % len(ERRORS)]
                found.append(Fault(seam, call, error, after))
    return found
