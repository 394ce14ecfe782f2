"""A worker, or an observer, of one job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from optimdpb.codec import job_spec_to_proto, layout_from_proto
from optimdpb.errors import EpochSuperseded, OptimdError, Refused, ServerUnavailable, WorkerSetAside
from optimdpb.specs import Clip, Consistency, Group, JobSpec, Layout, Optimizer, Schedule
from optimdpb.v1 import optimd_pb2 as pb

from optimd import tensors
from optimd.changes import Change, change_of, change_request
from optimd.delivery import WAIT_MARGIN_S, Answer, Delivery
from optimd.lease import LeaseKeeper
from optimd.patience import Patience
from optimd.range_test import LR_END, LR_START, STEPS, RangeTestResult, result_of, start_request
from optimd.results import JobStatus, Parameters, PushResult, StepResult, push_result, status_from_proto
from optimd.surroundings import Machine, Surroundings
from optimd.transport import CallFailed, CallLost, CallThrottled, GrpcTransport, Transport

Arrays = Mapping[str, NDArray[Any]]
# Until the server has said how long it holds a waiting call.
WAIT_S_ASSUMED = 20.0
# Deadlines of bulk calls allow for a link this slow.
LINK_BYTES_PER_S_MIN = 5e6
# Parameters and the most slots that a rule has.
VECTORS_MAX = 4
LEAVE_TIMEOUT_S = 2.0


def connect(
    address: str, *, job: str, worker: str | None = None, observer: bool = False, timeout_s: float = 60.0
) -> Worker:
    """A worker of a job on the server at HOST:PORT; nothing is sent yet.

    worker: a name unique in the job; joining under it again fences the older process. observer: only pulls and looks,
    needs no name. timeout_s: how long calls keep trying while the server cannot be reached; waiting for a round that
    the server holds open is not bounded by it.
    """
    if observer == (worker is not None):
        raise ValueError(f"expected either a worker name or observer=True, got worker={worker!r}, observer={observer}")
    return Worker(GrpcTransport(address), Machine(), job, worker, timeout_s)


class Worker:
    """Use it from one thread. As a context manager it leaves the job and closes its connection at the end.

    After EpochSuperseded (another process has this worker's name) and WorkerSetAside (too many pushes running were
    rejected) every push raises it again.
    """

    def __init__(
        self, transport: Transport, surroundings: Surroundings, job: str, worker: str | None, timeout_s: float
    ) -> None:
        self.job = job
        self.name = worker
        self._transport = transport
        self._surroundings = surroundings
        self._timeout_s = timeout_s
        self._wait_s = WAIT_S_ASSUMED
        self._step_bytes_max = 0
        self._layout: Layout | None = None
        self._base: pb.Version | None = None
        self._epoch = 0
        self._next_seq = 1
        self._keeper: LeaseKeeper | None = None
        self._buffer: NDArray[np.float32] | None = None
        self._unresolved: Delivery | None = None
        self._over: EpochSuperseded | WorkerSetAside | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.leave()
        finally:
            self.close()

    def ensure_job(
        self,
        parameters: Arrays,
        optimizer: Optimizer,
        consistency: Consistency,
        *,
        reduction: str = "mean",
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        buffers: Collection[str] = (),
        steps_max: int | None = None,
        rejections_max: int | None = None,
        cast_to_float32: bool = False,
    ) -> None:
        """Create the job with these parameters, or verify that it is the same job and wait for it; then join.

        parameters: float32 arrays by name, in the order of the layout; read, not kept. buffers: names of those that are
        not trained (running statistics): what workers push for them is their value, and a round takes the mean by
        weight. rejections_max: a worker is set aside when so many of its pushes running were rejected. Raises
        InvalidLayout, InvalidSpec, JobMismatch (naming the first difference), ServerUnavailable.
        """
        layout = tensors.layout_of(parameters, buffers, cast_to_float32=cast_to_float32)
        spec = JobSpec(layout, optimizer, consistency, reduction, clip, steps_max, tuple(groups), rejections_max)
        creator = self.name or "observer"
        request = pb.CreateJobRequest(job=self.job, spec=job_spec_to_proto(spec), worker=creator)
        while True:
            created = self._call("CreateJob", request)
            self._note_limits(created.limits)
            if created.disposition == pb.CREATE_DISPOSITION_READY:
                break
            if created.disposition == pb.CREATE_DISPOSITION_UPLOAD and self._upload(
                layout, parameters, created.upload_token
            ):
                break
        self._layout = layout
        if self.name is not None:
            self._join()

    def pull(self, view: str = "train") -> Parameters:
        """The current parameters, fresh and writable; their version becomes the base of the next push.

        view: "train", or "eval" for the form to evaluate with. Raises Refused(UNKNOWN_JOB, JOB_NOT_READY),
        ServerUnavailable.
        """
        layout = self._known_layout()
        request = pb.PullRequest(job=self.job, view=f"VIEW_{view.upper()}")
        flat = np.empty(layout.elements, np.float32)
        _, header = self._persist(lambda: self._transport.pull(request, flat, self._bulk_timeout_s(layout)))
        self._base = header.version
        return tensors.unpack(layout, flat)

    def push(self, gradients: Arrays, *, weight: float = 1.0, loss: float | None = None) -> PushResult:
        """Send one gradient, taken at the parameters last pulled; wait for its outcome as the consistency model says.

        gradients: float32, exactly the layout's names and shapes, for a buffer its value; read, not kept. weight:
        examples behind it, > 0. Raises InvalidGradient before anything is sent, EpochSuperseded, ServerUnavailable (it
        does not count), and OutcomeUnknown (it may count; the next push or step finds out first).
        """
        layout = self._prepare(gradients)
        timeout_s = self._bulk_timeout_s(layout) + self._wait_s
        answer = self._deliver(
            lambda header: self._transport.push(header, self._packed(layout), timeout_s), layout, weight, loss
        )
        return push_result(answer.outcome, answer.header, answer.finished)

    def step(self, gradients: Arrays, *, weight: float = 1.0, loss: float | None = None) -> StepResult:
        """push(), then pull(). Small models take one call."""
        layout = self._prepare(gradients)
        if layout.size_bytes > self._step_bytes_max:
            result = self.push(gradients, weight=weight, loss=loss)
            return StepResult(**vars(result), parameters=self.pull())
        pulled: list[NDArray[np.float32] | None] = [None]

        def send(header: pb.PushHeader) -> Answer:
            timeout_s = self._wait_s + WAIT_MARGIN_S
            answer, pulled[0] = self._transport.step(header, self._packed(layout), timeout_s)
            return answer

        answer = self._deliver(send, layout, weight, loss)
        result = push_result(answer.outcome, answer.header, answer.finished)
        if isinstance(answer, pb.StepResponse) and pulled[0] is not None:
            self._base = answer.parameters.version
            return StepResult(**vars(result), parameters=tensors.unpack(layout, pulled[0]))
        return StepResult(**vars(result), parameters=self.pull())

    def status(self) -> JobStatus:
        """Where the job is, who works on it and what it waits for."""
        return status_from_proto(self._call("GetJob", pb.GetJobRequest(job=self.job)))

    def set_schedules(
        self,
        schedules: Mapping[str, Schedule | float],
        *,
        at_step: int | None = None,
        expected_revision: int | None = None,
    ) -> Change:
        """Replace schedules of the job from a step on, by hyper-parameter: {"lr": SGDR(...), "weight_decay": 0.0}.

        at_step: the update of that step is the first one made with them; None for the next. expected_revision: refuse
        unless the job is at it. Raises InvalidSpec and Refused(STEP_PASSED, REVISION_MISMATCH, WRONG_STATE,
        INVALID_UPDATE).
        """
        return self._change(schedules, None, at_step, expected_revision)

    def pause(self, *, at_step: int | None = None) -> Change:
        """Make no update of the job from that step on; pushes wait. Raises as set_schedules()."""
        return self._change({}, True, at_step, None)

    def resume(self) -> Change:
        """Let a paused job go on; ends a range test early. Raises as set_schedules()."""
        return self._change({}, False, None, None)

    def _change(
        self,
        schedules: Mapping[str, Schedule | float],
        paused: bool | None,
        at_step: int | None,
        expected_revision: int | None,
    ) -> Change:
        requester = self.name or "observer"
        request = change_request(self.job, requester, schedules, paused, at_step, expected_revision)
        return change_of(self._call("UpdateJob", request))

    def range_test(
        self,
        compute: Callable[[Parameters], tuple[Arrays, float, float]],
        *,
        lr_start: float = LR_START,
        lr_end: float = LR_END,
        steps: int = STEPS,
        sweep: str = "exponential",
        name: str = "range-test",
    ) -> RangeTestResult:
        """Find a learning rate: train while the server sweeps it, then everything is put back. All workers call it.

        compute(parameters) gives (gradients, weight, loss) of a next batch. The first call of that name starts the
        test, the others join in; one that comes later gets the result. Pull again behind it. sweep: "exponential" or
        "linear". Raises Refused(WRONG_STATE, INVALID_UPDATE), and as step().
        """
        start = start_request(self.job, self.name or "observer", name, lr_start, lr_end, steps, sweep)
        while True:
            self._call("StartRangeTest", start)  # again, too: a server that lost its state has lost the test
            report = self._call("GetRangeTest", pb.GetRangeTestRequest(job=self.job))
            if report.request_id != name:
                message = f"expected range test {name!r}, another one took its place: {report.request_id!r}"
                raise Refused("NO_RANGE_TEST", message)
            if report.done:
                return result_of(report)
            parameters = self.pull()
            while self._base is not None and self._base.lineage == report.header.lineage:
                gradients, weight, loss = compute(parameters)
                parameters = self.step(gradients, weight=weight, loss=loss).parameters

    def snapshot(self) -> str:
        """Save the whole job now; its path on the server's machine. Raises Refused(NO_DATA_DIRECTORY, ...)."""
        request = pb.CreateSnapshotRequest(job=self.job)
        timeout_s = VECTORS_MAX * self._bulk_timeout_s(self._known_layout())
        saved = self._persist(lambda: self._transport.call("CreateSnapshot", request, timeout_s))
        return str(saved.snapshot)

    def leave(self) -> None:
        """End the membership; what was committed still counts. Harmless without one. Does not insist on an answer."""
        if self._keeper is None:
            return
        self._keeper.stop()
        self._keeper = None
        request = pb.LeaveRequest(job=self.job, worker=self.name or "", epoch=self._epoch)
        with contextlib.suppress(CallFailed, OptimdError):  # the lease ends by itself
            self._transport.call("Leave", request, timeout_s=LEAVE_TIMEOUT_S)

    def close(self) -> None:
        """Close the connection without leaving: the membership ends with its lease."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._transport.close()

    def _upload(self, layout: Layout, parameters: Arrays, token: int) -> bool:
        """Whether the upload went through; False if another worker took over or the server went away: ask again."""
        flat = np.empty(layout.elements, np.float32)
        tensors.pack(layout, parameters, flat)
        header = pb.UploadHeader(
            job=self.job, upload_token=token, payload_bytes=flat.nbytes, layout_digest=layout.digest
        )
        try:
            self._transport.upload(header, flat, self._bulk_timeout_s(layout))
        except CallFailed:
            return False
        except Refused as error:
            if error.reason != "NOT_UPLOADER":
                raise
            return False
        return True

    def _join(self) -> int:
        """Join under a fresh epoch and keep its lease. Returns the epoch."""
        if self._keeper is not None:
            self._keeper.stop()
        digest = self._layout.digest if self._layout else b""
        assert self.name is not None
        joined = self._call("Join", pb.JoinRequest(job=self.job, worker=self.name, layout_digest=digest))
        self._note_limits(joined.limits)
        self._epoch, self._next_seq = joined.epoch, 1
        lease_s = joined.lease_ms / 1000
        self._keeper = LeaseKeeper(self._transport, self._surroundings, self.job, self.name, joined.epoch, lease_s)
        return self._epoch

    def _is_expired(self) -> bool:
        return self._keeper is not None and self._keeper.expired

    def _known_layout(self) -> Layout:
        if self._layout is None:
            self._layout = layout_from_proto(self._call("GetJob", pb.GetJobRequest(job=self.job)).spec.layout)
        return self._layout

    def _prepare(self, gradients: Arrays) -> Layout:
        """Check the gradients, join if need be, settle what is unresolved, and pack. Raises before anything is sent."""
        if self.name is None:
            raise ValueError("expected a worker, got an observer: observers only pull")
        if self._over is not None:
            raise self._over
        layout = self._known_layout()
        tensors.check_gradients(layout, gradients)
        if self._base is None:
            raise ValueError("expected parameters to be pulled before a gradient is pushed")
        if self._epoch == 0:
            self._join()
        if self._unresolved is not None:
            known = self._unresolved.resolve() is not None
            if self._unresolved.header.epoch == self._epoch:
                if known:
                    self._next_seq = self._unresolved.header.seq + 1
                else:  # bytes of it may still be on their way: a fresh epoch fences them from what follows
                    self._join()
            self._unresolved = None
        tensors.pack(layout, gradients, self._packed(layout))
        return layout

    def _packed(self, layout: Layout) -> NDArray[np.float32]:
        """The one buffer gradients are packed into; it holds a push until the push is answered."""
        if self._buffer is None or self._buffer.size != layout.elements:
            self._buffer = np.empty(layout.elements, np.float32)
        return self._buffer

    def _deliver(
        self, send: Callable[[pb.PushHeader], Answer], layout: Layout, weight: float, loss: float | None
    ) -> Answer:
        header = pb.PushHeader(
            job=self.job,
            worker=self.name or "",
            epoch=self._epoch,
            seq=self._next_seq,
            base_version=self._base,
            weight=weight,
            loss=None if loss is None else float(loss),
            encoding=pb.ENCODING_F32,
            payload_bytes=layout.size_bytes,
            attempt=1,
            layout_digest=layout.digest,
        )
        delivery = Delivery(self._transport, header, self._wait_s, self._patience(), self._join, self._is_expired)
        self._unresolved = delivery  # until proven otherwise, also through an interrupt
        try:
            answer = delivery.run(send)
        except (EpochSuperseded, WorkerSetAside) as error:
            self._over = error
            raise
        except Refused:
            self._unresolved = None
            raise
        self._unresolved = None
        self._next_seq = delivery.header.seq + 1 if delivery.header.epoch == self._epoch else 1
        return answer

    def _call(self, method: str, request: Message) -> Any:
        return self._persist(lambda: self._transport.call(method, request, self._wait_s + WAIT_MARGIN_S))

    def _patience(self) -> Patience:
        return Patience(self._timeout_s, self._surroundings)

    def _persist(self, attempt: Callable[[], Any]) -> Any:
        """Repeat a harmless call until the server answers. Raises ServerUnavailable once patience is over."""
        patience = self._patience()
        while True:
            try:
                return attempt()
            except (CallLost, CallThrottled) as error:
                if not patience.wait(getattr(error, "retry_delay_s", None)):
                    raise ServerUnavailable(f"the server cannot be reached: {error}") from error

    def _note_limits(self, limits: pb.Limits) -> None:
        self._wait_s = limits.wait_ms_max / 1000
        self._step_bytes_max = limits.step_bytes_max

    @staticmethod
    def _bulk_timeout_s(layout: Layout) -> float:
        return WAIT_MARGIN_S + layout.size_bytes / LINK_BYTES_PER_S_MIN
