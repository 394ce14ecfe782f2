"""A worker, or an observer, of one job."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimdpb.codec import job_spec_to_proto
from optimdpb.errors import EpochSuperseded, Refused, WorkerSetAside
from optimdpb.specs import Clip, Consistency, Group, JobSpec, Optimizer, Schedule
from optimdpb.v1 import optimd_pb2 as pb

from optimd import tensors
from optimd.address import check_address
from optimd.buffers import GradientBuffers
from optimd.changes import Change, change_of, change_request
from optimd.delivery import WAIT_MARGIN_S, Answer, Delivery
from optimd.encoding import PULL_DTYPES, PUSH_DTYPES, Encoder, Float32, Payload, encoder_of
from optimd.membership import Membership
from optimd.puller import Puller
from optimd.range_test import LR_END, LR_START, STEPS, RangeTestResult, result_of, start_request
from optimd.results import JobStatus, Parameters, PushResult, StepResult, push_result, status_from_proto
from optimd.session import Session
from optimd.surroundings import Machine, Surroundings
from optimd.transport import GrpcTransport, Transport

Arrays = Mapping[str, NDArray[Any]]
Float32s = NDArray[np.float32]
# Parameters and the most slots that a rule has.
VECTORS_MAX = 4


def connect(
    address: str,
    *,
    job: str,
    worker: str | None = None,
    observer: bool = False,
    timeout_s: float = 60.0,
    push_dtype: str = "float32",
    pull_dtype: str = "float32",
) -> Worker:
    """A worker of a job on the server at HOST:PORT; nothing is sent yet.

    worker: a name unique in the job; joining under it again fences the older process. observer: only pulls and looks,
    needs no name. timeout_s: how long calls keep trying while the server cannot be reached; waiting for a round that
    the server holds open is not bounded by it. push_dtype, pull_dtype: how gradients and parameters travel, "float32",
    "bfloat16", and for gradients "int8" (what it loses is carried over to the next push); they save bytes on a network
    and do nothing to models below 64 KiB or in shared memory. A proxy that the environment names (http_proxy, no_proxy)
    is used, but not for loopback addresses. Raises ValueError for an address without a port.
    """
    if push_dtype not in PUSH_DTYPES or pull_dtype not in PULL_DTYPES:
        expected = f"push_dtype of {PUSH_DTYPES} and pull_dtype of {PULL_DTYPES}"
        raise ValueError(f"expected {expected}, got {push_dtype!r} and {pull_dtype!r}")
    if observer == (worker is not None):
        raise ValueError(f"expected either a worker name or observer=True, got worker={worker!r}, observer={observer}")
    return Worker(GrpcTransport(check_address(address)), Machine(), job, worker, timeout_s, push_dtype, pull_dtype)


class Worker:
    """Use it from one thread. As a context manager it leaves the job and closes its connection at the end.

    After EpochSuperseded (another process has this worker's name) and WorkerSetAside (too many pushes running were
    rejected) every push raises it again.
    """

    def __init__(
        self,
        transport: Transport,
        surroundings: Surroundings,
        job: str,
        worker: str | None,
        timeout_s: float,
        push_dtype: str = "float32",
        pull_dtype: str = "float32",
    ) -> None:
        self.job = job
        self.name = worker
        self._session = Session(transport, surroundings, job, timeout_s)
        self._membership = Membership(self._session, worker or "")
        self._puller = Puller(self._session, self._membership, pull_dtype)
        self._push_dtype, self._pull_dtype = push_dtype, pull_dtype
        self._encoder: Encoder | None = None
        self._sent_by: Encoder | None = None
        self._sending: Float32s | None = None
        self._base: pb.Version | None = None
        self._gradients: GradientBuffers | None = None
        self._pulled: Float32s | None = None
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
        creator = self.name or f"observer-{uuid.uuid4().hex}"  # two observers must not take each other's upload
        request = pb.CreateJobRequest(job=self.job, spec=job_spec_to_proto(spec), worker=creator)
        while True:
            created = self._session.call("CreateJob", request)
            self._session.note_limits(created.limits)
            if created.disposition == pb.CREATE_DISPOSITION_READY:
                break
            if self._session.take_layout(layout):
                self._encoder, self._puller = None, Puller(self._session, self._membership, self._pull_dtype)
            token = created.upload_token
            if created.disposition == pb.CREATE_DISPOSITION_UPLOAD and self._session.upload(parameters, token):
                break
        self._session.take_layout(layout)
        if self.name is not None:
            self._join()

    def pull(self, view: str = "train", *, copy: bool = True) -> Parameters:
        """The current parameters; their version becomes the base of the next push.

        view: "train", or "eval" for the form to evaluate with. copy: fresh, writable arrays that belong to the caller;
        else read-only views, good until the next pull, push or step, or the end of the membership. Raises
        Refused(UNKNOWN_JOB, JOB_NOT_READY), ServerUnavailable.
        """
        parameters, self._base = self._puller.pull(view, copy=copy)
        return parameters

    def gradient_buffers(self) -> dict[str, Float32s]:
        """Arrays to compute the next gradient into: whoever passes this dict to step() or push() has nothing copied.

        They are the server's from then on, until the push has its outcome: ask for them anew for each gradient. Their
        contents are undefined. Raises OutcomeUnknown if all are with the server, Refused, ServerUnavailable.
        """
        return self._ready_to_push().views()

    def push(self, gradients: Arrays, *, weight: float = 1.0, loss: float | None = None) -> PushResult:
        """Send one gradient, taken at the parameters last pulled; wait for its outcome as the consistency model says.

        gradients: float32, exactly the layout's names and shapes, for a buffer its value; read, not kept. weight:
        examples behind it, > 0. Raises InvalidGradient before anything is sent, EpochSuperseded, ServerUnavailable (it
        does not count), and OutcomeUnknown (it may count; the next push or step finds out first).
        """
        answer = self._deliver(self._prepare(gradients), weight, loss, pull=False)
        return push_result(answer.outcome, answer.header, answer.finished)

    def step(
        self, gradients: Arrays, *, weight: float = 1.0, loss: float | None = None, copy: bool = True
    ) -> StepResult:
        """push(), then pull(); in one call for small models and on the server's own machine."""
        answer = self._deliver(self._prepare(gradients), weight, loss, pull=True)
        result = push_result(answer.outcome, answer.header, answer.finished)
        flat, self._pulled = self._pulled, None
        given = None if flat is None else self._puller.given(flat, copy=copy)
        if isinstance(answer, pb.StepResponse) and given is not None:
            self._base = answer.parameters.version
            return StepResult(**vars(result), parameters=given)
        return StepResult(**vars(result), parameters=self.pull(copy=copy))

    def status(self) -> JobStatus:
        """Where the job is, who works on it and what it waits for."""
        return status_from_proto(self._session.call("GetJob", pb.GetJobRequest(job=self.job)))

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
        return change_of(self._session.call("UpdateJob", request))

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
            self._session.call("StartRangeTest", start)  # again, too: a server that lost its state has lost the test
            report = self._session.call("GetRangeTest", pb.GetRangeTestRequest(job=self.job))
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
        timeout_s = VECTORS_MAX * self._session.bulk_timeout_s()
        saved = self._session.persist(lambda: self._session.transport.call("CreateSnapshot", request, timeout_s))
        return str(saved.snapshot)

    def leave(self) -> None:
        """End the membership; what was committed still counts. Harmless without one. Does not insist on an answer."""
        self._membership.leave()

    def close(self) -> None:
        """Close the connection without leaving: the membership ends with its lease."""
        self._membership.stop()
        self._session.transport.close()

    def _join(self) -> int:
        """Join under a fresh epoch. Returns the epoch."""
        self._membership.join()
        self._take_gradient_buffers()
        return self._membership.epoch

    def _take_gradient_buffers(self) -> GradientBuffers:
        memory = self._membership.memory
        self._gradients = GradientBuffers(self._session.layout, None if memory is None else memory.gradients)
        return self._gradients

    def _check_worker(self) -> None:
        if self.name is None:
            raise ValueError("expected a worker, got an observer: observers only pull")
        if self._over is not None:
            raise self._over

    def _ready_to_push(self) -> GradientBuffers:
        """Join if need be; where gradients go. Raises what ended this worker."""
        self._check_worker()
        if self._membership.epoch == 0:
            self._join()
        elif self._membership.memory_lost:
            self._membership.share_memory()
            self._take_gradient_buffers()
        else:
            self._membership.open_calls()
        assert self._gradients is not None
        return self._gradients

    def _prepare(self, gradients: Arrays) -> Float32s:
        """Check the gradients, settle what is unresolved, and pack. Raises before anything is sent."""
        self._check_worker()
        whole = None if self._gradients is None else self._gradients.whole(gradients)
        if whole is None:
            tensors.check_gradients(self._session.layout, gradients)
        if self._base is None:
            raise ValueError("expected parameters to be pulled before a gradient is pushed")
        buffers = self._ready_to_push()
        if self._unresolved is not None:
            outcome = self._unresolved.resolve()
            known = outcome is not None
            self._settle_encoder(outcome)
            if self._unresolved.header.epoch == self._membership.epoch:
                if known:
                    self._membership.next_seq = self._unresolved.header.seq + 1
                else:  # bytes of it may still be on their way: a fresh epoch fences them from what follows
                    self._join()
            self._unresolved = None
            buffers = self._ready_to_push()
        buffers.release()
        return buffers.put(gradients, whole)

    def _deliver(self, flat: Float32s, weight: float, loss: float | None, *, pull: bool) -> Answer:
        session, membership, layout = self._session, self._membership, self._session.layout
        header = pb.PushHeader(
            job=self.job,
            worker=membership.worker,
            epoch=membership.epoch,
            seq=membership.next_seq,
            base_version=self._base,
            weight=weight,
            loss=None if loss is None else float(loss),
            attempt=1,
            layout_digest=layout.digest,
        )
        delivery = Delivery(
            session.transport, header, session.wait_s, session.patience(), self._join, lambda: membership.expired
        )
        self._unresolved = delivery  # until proven otherwise, also through an interrupt
        self._sending = flat
        try:
            answer = delivery.run(lambda header: self._send(header, pull=pull))
        except (EpochSuperseded, WorkerSetAside) as error:
            self._over = error
            raise
        except Refused:
            self._settled()
            raise
        self._settled()
        self._settle_encoder(answer)
        membership.next_seq = delivery.header.seq + 1 if delivery.header.epoch == membership.epoch else 1
        return answer

    def _settle_encoder(self, answer: Answer | None) -> None:
        if self._sent_by is not None:
            self._sent_by.settled(answer is not None and answer.outcome.status == pb.OUTCOME_STATUS_APPLIED)
            self._sent_by = None

    def _settled(self) -> None:
        self._unresolved = self._sending = None
        if self._gradients is not None:
            self._gradients.release()

    def _send(self, header: pb.PushHeader, *, pull: bool) -> Answer:
        """Send the gradient once, in place where the server can read it; a server that started anew cannot."""
        assert self._gradients is not None and self._sending is not None  # noqa: PT018
        # The worker may have joined anew since: its gradient belongs into the memory of the epoch that sends it.
        flat = self._sending = self._gradients.adopt(self._sending)
        header.shared_buffer = self._membership.shared_buffer(flat)
        try:
            return self._send_once(header, flat, pull=pull)
        except Refused as error:
            if error.reason != "SHARED_MEMORY_GONE":
                raise
            self._membership.lose_memory()
            header.shared_buffer = 0
            return self._send_once(header, flat, pull=pull)

    def _send_once(self, header: pb.PushHeader, flat: Float32s, *, pull: bool) -> Answer:
        session = self._session
        if self._encoder is None:
            self._encoder = encoder_of(self._push_dtype, flat.size)
        self._sent_by = Float32() if header.shared_buffer else self._encoder
        payload = Payload(flat, self._sent_by)
        header.encoding, header.payload_bytes = payload.encoding, payload.nbytes
        in_one = header.shared_buffer or (flat.nbytes <= session.step_bytes_max and self._puller.takes_float32)
        if not pull or not in_one:
            return session.transport.push(header, payload, session.bulk_timeout_s() + session.wait_s)
        answer, self._pulled = session.transport.step(header, payload, session.wait_s + WAIT_MARGIN_S)
        if answer.parameters.location in (pb.LOCATION_SHARED, pb.LOCATION_COPY):
            assert self._membership.memory is not None
            self._pulled = self._membership.memory.parameters
        return answer
