"""Pulling parameters: into fresh arrays or in place, by messages or by reading the server's memory."""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import Refused
from optimdpb.specs import Layout
from optimdpb.v1 import optimd_pb2 as pb

from optimd import tensors
from optimd.buffers import ParameterBuffers
from optimd.encoding import PLAIN_BYTES_MAX
from optimd.membership import Membership
from optimd.results import Parameters
from optimd.session import Session
from optimd.transport import CallFailed, CallThrottled, SharedMemory
from optimd.window import Place, Window, place_of

Float32s = NDArray[np.float32]
_NO_MEMBER = ("NOT_JOINED", "LEASE_EXPIRED", "EPOCH_SUPERSEDED", "WORKER_SET_ASIDE")


class Puller:
    """One job's parameters as its caller wants them.

    copy: fresh, writable arrays that belong to the caller; else read-only views, good until the next call of the worker
    that pulls, pushes or ends its membership, or its lease ends. Copies, too, where the system allows no window.
    """

    def __init__(self, session: Session, membership: Membership, dtype: str) -> None:
        self._session = session
        self._membership = membership
        self._dtype = dtype
        self._made: ParameterBuffers | None = None
        self._place: Place | None = None
        self._place_version: pb.Version | None = None
        self._handed: tuple[Window, Layout] | None = None
        self._pulled = False

    @property
    def takes_float32(self) -> bool:
        """Whether parameters of this job come as float32."""
        return self._dtype == "float32" or self._session.layout.size_bytes <= PLAIN_BYTES_MAX

    def check_unchanged(self) -> None:
        """Raises ValueError if the caller has changed the views given last, which hold the server's values again then.

        Looks at all of what a pull gave; at a part, another each time, of what a step gave: looking at 100 MB takes
        1.5 ms, a step of theirs 30 ms.
        """
        if self._handed is None:
            return
        window, layout = self._handed
        changed = window.changed(whole=self._pulled)
        self._pulled = False
        if changed is None:
            return
        name = layout.names[bisect.bisect_right(layout.offsets, changed) - 1]
        raise ValueError(
            f"parameters at or near {name!r} were written to, but arrays of copy=False are only to be read: write to a"
            " copy, such as torch.from_numpy(array).clone(), or leave copy=False out. Pull again"
        )

    def pull(self, view: str, *, copy: bool) -> tuple[Parameters, pb.Version]:
        """The current parameters and their version. Raises Refused(UNKNOWN_JOB, JOB_NOT_READY), ServerUnavailable."""
        layout = self._session.layout
        encoding = pb.ENCODING_F32 if self.takes_float32 else pb.ENCODING_BF16
        request = pb.PullRequest(job=self._session.job, view=f"VIEW_{view.upper()}", encoding=encoding)
        memory = self._membership.readable_memory
        place = None if copy or (memory is not None and memory.window is None) else self._place_for(layout)
        if place is None:
            target = self._buffers.fresh()
        else:
            target = place.own
            if self._place_version is not None:
                request.known_version.CopyFrom(self._place_version)
            self._place_version = None
        header = self._pull_into(request, target, memory)
        self._pulled = True
        if header.location != pb.LOCATION_UNSPECIFIED and memory is not None:
            if place is not None and memory.window is not None:
                return self._in_place(memory.window), header.version
            views = self._copied(memory.parameters, target)
            if views is not None:
                return views, header.version
            _by_stream(request)
            header = self._ask(request, target)
        if place is None:
            return tensors.unpack(layout, target), header.version
        self._place_version = header.version
        return self._in_place(place.window), header.version

    def _place_for(self, layout: Layout) -> Place | None:
        if self._place is None or self._place.own.size != layout.elements:
            self._place, self._place_version = place_of(layout.elements), None
        return self._place

    def _in_place(self, window: Window) -> Parameters:
        self._handed = window, self._session.layout
        return self._buffers.in_place(window.flat)

    def given(self, flat: Float32s, *, copy: bool) -> Parameters | None:
        """Parameters that have come already: in a vector of their own, or in memory shared with the server.

        None if they may have changed meanwhile: pull them.
        """
        if flat.flags.owndata:
            return tensors.unpack(self._session.layout, flat)
        memory = self._membership.memory
        if memory is None or flat is not memory.parameters:  # a signal handler has left the job meanwhile
            return None
        return self._copied(flat) if copy or memory.window is None else self._in_place(memory.window)

    def _copied(self, shared: Float32s, target: Float32s | None = None) -> Parameters | None:
        """A copy of shared memory, None unless it is surely of one version.

        Only for the server's live members it stands still, and a process may be stopped for longer than its lease.
        """
        views = self._buffers.copied(shared, target)
        return views if self._membership.surely_live else None

    @property
    def _buffers(self) -> ParameterBuffers:
        layout = self._session.layout
        if self._made is None or self._made.layout is not layout:
            self._made = ParameterBuffers(layout)
        return self._made

    def _pull_into(self, request: pb.PullRequest, target: Float32s, memory: SharedMemory | None) -> pb.ParametersHeader:
        """One pull, by shared memory where there is some. Returns what came and where it is."""
        if memory is None:
            return self._ask(request, target)
        request.shared_memory, request.worker, request.epoch = True, self._membership.worker, self._membership.epoch
        try:
            return self._ask(request, target)
        except Refused as error:
            if error.reason not in _NO_MEMBER:
                raise
            _by_stream(request)
            return self._ask(request, target)

    def _ask(self, request: pb.PullRequest, target: Float32s) -> pb.ParametersHeader:
        session, membership = self._session, self._membership

        def pull() -> pb.ParametersHeader:
            if not request.shared_memory:
                return session.transport.pull(request, target, session.answer_s)[1]
            membership.memory_in_use = True
            try:
                header = session.transport.pull(request, target, session.answer_s)[1]
            except (CallThrottled, Refused):
                membership.memory_in_use = False
                raise
            except CallFailed:  # the server may still write to that memory
                _by_stream(request)
                raise
            membership.memory_in_use = False
            return header

        def attempt() -> pb.ParametersHeader:
            try:
                return pull()
            except BaseException:
                request.ClearField("known_version")  # some of another may be there now
                raise

        header: pb.ParametersHeader = session.persist(attempt, is_watched=membership.surely_live)
        return header


def _by_stream(request: pb.PullRequest) -> None:
    request.shared_memory, request.worker, request.epoch = False, "", 0
