"""Reading the parameters of a job while no update changes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.events import Version
from optimd_server.optimizers.kernels import Float32s
from optimd_server.runtime.encoded import EncodedParameters, ParameterMessages
from optimd_server.runtime.shards import ShardGroup
from optimd_server.runtime.shielded import to_its_end
from optimd_server.state.bulk import RunOnThreads


class Parameters:
    """Use it on the event loop alone. Everything raises what `check` does, if that is so once nothing changes them.

    still: held while nothing else may work on the slabs, to the end of a thread's work also if its call is given up.
    on_threads: whether updates are made elsewhere than on the event loop. version: theirs now. `messages`: as they are
    sent.
    """

    def __init__(
        self,
        shards: ShardGroup,
        run: RunOnThreads,
        still: asyncio.Lock,
        version: Callable[[], Version],
        check: Callable[[], None],
        messages: ParameterMessages,
        *,
        on_threads: bool,
    ) -> None:
        self.messages = messages
        self._shards = shards
        self._run = run
        self._still = still
        self._version = version
        self._check = check
        self._on_threads = on_threads

    async def copy_to(self, target: Float32s) -> Version:
        """Write them to a vector of their size. Returns their version."""
        if not self._on_threads:
            self._check()
            self._shards.copy_parameters(target, self._run)
            return self._version()
        return await to_its_end(self._still, lambda: self._copy_on_threads(target))

    async def _copy_on_threads(self, target: Float32s) -> Version:
        self._check()
        version = self._version()
        await asyncio.to_thread(self._shards.copy_parameters, target, self._run)
        return version

    async def copied(self) -> tuple[Version, Float32s]:
        """One private vector, and its version. Raises Refused(BACKLOG_FULL)."""
        if not self._on_threads:
            return self._copied_now()
        async with self._still:
            return self._copied_now()

    def _copied_now(self) -> tuple[Version, Float32s]:
        self._check()
        with MemoryFor("parameters to be sent"):
            return self._version(), self._shards.flat_parameters()

    async def encoded(self, encoding: int) -> EncodedParameters:
        """As messages, encoded once per version, as F32 or BF16. Raises Refused(BACKLOG_FULL)."""
        bfloat16 = encoding == pb.ENCODING_BF16
        with MemoryFor("parameters to be sent"):
            if not self._on_threads:
                self._check()
                return self._known(bfloat16) or self.messages.make(self._version(), bfloat16)
            return await to_its_end(self._still, lambda: self._encode_on_threads(bfloat16))

    async def _encode_on_threads(self, bfloat16: bool) -> EncodedParameters:
        self._check()
        known = self._known(bfloat16)
        if known is not None:
            return known
        return await asyncio.to_thread(self.messages.make, self._version(), bfloat16)

    def _known(self, bfloat16: bool) -> EncodedParameters | None:
        return self.messages.known(self._version(), bfloat16=bfloat16)


class MemoryFor:
    """As a context manager: raises Refused(BACKLOG_FULL) where there is no memory for `what`."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, MemoryError):
            message = f"expected memory for {self._what}, the server has none: try again"
            raise Refused("BACKLOG_FULL", message) from error
