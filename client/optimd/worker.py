"""A worker, or an observer, of one job."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from optimdpb.codec import job_spec_to_proto
from optimdpb.errors import JobReplaced, OutcomeUnknown, Refused, ServerUnavailable
from optimdpb.specs import Clip, Consistency, Group, JobSpec, Optimizer, Schedule
from optimdpb.v1 import optimd_pb2 as pb

from optimd import tensors
from optimd.address import check_address
from optimd.arrays import parameters_of
from optimd.changes import Change, change_of, change_request
from optimd.claim import Claim
from optimd.creation import Creation, JobStart
from optimd.delivery import Sent
from optimd.encoding import PULL_DTYPES, PUSH_DTYPES
from optimd.membership import Membership
from optimd.puller import Puller
from optimd.pusher import Pusher
from optimd.range_test import LR_END, LR_START, STEPS, RangeTestResult, start_request, take_part
from optimd.results import JobStatus, Parameters, PushResult, StepResult, push_result, status_from_proto
from optimd.session import Session
from optimd.surroundings import Machine, Surroundings
from optimd.transport import GrpcTransport, Transport
from optimd.unapplied import Unapplied

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]
Float32s = NDArray[np.float32]
# Parameters and the most slots that a rule has.
VECTORS_MAX = 4
# A snapshot is given as long as a disk this slow takes for it.
DISK_BYTES_PER_S_MIN = 5e6


def connect(
    address: str,
    *,
    job: str,
    worker: str | None = None,
    observer: bool = False,
    timeout_s: float = 60.0,
    push_dtype: str = "float32",
    pull_dtype: str = "float32",
    on_rejected: str = "raise",
    _surroundings: Surroundings | None = None,
) -> Worker:
    """A worker of a job on the server at HOST:PORT; nothing is sent yet.

    worker: a name unique in the job; joining under it again fences the older process. observer: only pulls and looks,
    needs no name. timeout_s: how long calls keep trying while the server cannot be reached; waiting for a round that
    the server holds open is not bounded by it. push_dtype, pull_dtype: how gradients and parameters travel, "float32",
    "bfloat16", and for gradients "int8" (what it loses is carried over to the next push); they save bytes on a network
    and do nothing to models below 64 KiB or in shared memory. A proxy that the environment names (http_proxy, no_proxy)
    is used, but not for loopback addresses. on_rejected: of pushes that come to nothing "raise" warns once for each
    kind, and raises PushesNotApplied after 5 running (not counting what a slow worker is late with), or JobReplaced if
    the job is another one now; "warn" warns alone, "ignore" does nothing. Raises ValueError for no port in an address.
    """
    if push_dtype not in PUSH_DTYPES or pull_dtype not in PULL_DTYPES:
        expected = f"push_dtype of {PUSH_DTYPES} and pull_dtype of {PULL_DTYPES}"
        raise ValueError(f"expected {expected}, got {push_dtype!r} and {pull_dtype!r}")
    if observer == (worker is not None):
        raise ValueError(f"expected either a worker name or observer=True, got worker={worker!r}, observer={observer}")
    transport, surroundings = GrpcTransport(check_address(address)), _surroundings or Machine()
    return Worker(transport, surroundings, job, worker, timeout_s, push_dtype, pull_dtype, on_rejected)


class Worker:
    """A member of one job, or an observer. As a context manager it leaves the job and closes its connection at the end.

    Leaving means being out of data: rounds of Sync go on without it. A `with` block that an exception ends leaves as
    failed: the others wait for it to come back if the job needs it, as for one that died.

    One thread at a time: RuntimeError for a second one in ensure_job, pull, gradient_buffers, push or step. Whatever
    exception comes out of a call, an interrupt included, the next call finds out first what became of it; where newer
    parameters were on their way to the caller, the next gradient has no base until they are pulled (ValueError). After
    EpochSuperseded (another process has this worker's name) and WorkerSetAside (too many pushes running were rejected)
    every push raises it again. A worker that is dropped without leave() or close() sends no more heartbeats.
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
        on_rejected: str = "raise",
    ) -> None:
        self.job = job
        self.name = worker
        self._session = Session(transport, surroundings, job, timeout_s)
        self._claim = Claim(surroundings)
        self._membership = Membership(self._session, "" if worker is None else worker, self._claim)
        self._puller = Puller(self._session, self._membership, pull_dtype)
        self._pusher = Pusher(self._session, self._membership, self._puller, push_dtype)
        self._unapplied = Unapplied(self._session, on_rejected)
        self._base: pb.Version | None = None
        weakref.finalize(self, _dropped, self._membership, os.getpid()).atexit = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._membership.leave(failed=not _ended_well(error), for_good=True)
        finally:
            self.close()

    def __reduce__(self) -> NoReturn:
        message = (
            "a Worker is a connection and cannot be pickled or copied: call optimd.connect(address, job=, worker=)"
            " or server.connect(job=, worker=) of the server from optimd.ray.start(), inside the task"
        )
        raise TypeError(message)

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
        if_exists: str = "resume",
    ) -> JobStart:
        """Create the job with these parameters, or verify that it is the same job and wait for it; then join.

        parameters: float32 arrays by name, in the order of the layout; read, not kept. buffers: names of those that are
        not trained (running statistics): what workers push for them is their value, and a round takes the mean by
        weight. rejections_max: a worker is set aside when so many of its pushes running were rejected. cast_to_float32:
        parameters, and what this worker pushes, may be of any real numbers, integers up to 2^24.
        if_exists, about a job that has made updates: "resume" goes on with it, and warns that these parameters were not
        used; "error" raises Refused(WRONG_STATE); "replace" deletes it, whatever its specification, once nobody else
        works on it (its snapshots are put aside). Raises InvalidLayout, InvalidSpec, Refused(NON_FINITE_PARAMETERS),
        JobMismatch (naming the first difference), ServerUnavailable.
        """
        arrays = parameters_of(parameters, cast=cast_to_float32)
        layout = tensors.layout_of(arrays, buffers)
        spec = JobSpec(layout, optimizer, consistency, reduction, clip, steps_max, tuple(groups), rejections_max)
        creator = self.name or f"observer-{uuid.uuid4().hex}"  # two observers must not take each other's upload
        request = pb.CreateJobRequest(job=self.job, spec=job_spec_to_proto(spec), worker=creator)
        creation = Creation(self._session, request, if_exists)
        with self._claim:
            start = creation.run(layout, arrays)
            self._pusher.casts = cast_to_float32
            self._unapplied.begin()
            if self.name is not None:
                self._membership.join()
                header = self._membership.header
                if start.created and header.step == 0:
                    self._base = pb.Version(lineage=header.lineage, step=0)
        return start

    def pull(self, view: str = "train", *, copy: bool = True) -> Parameters:
        """The current parameters; their version becomes the base of the next push.

        view: "train", or "eval" for the form to evaluate with. copy: fresh, writable arrays that belong to the caller;
        else read-only views, good until the next pull, push or step, or the end of the membership. What ignores numpy's
        flag, as torch.from_numpy(params["w"]).add_(1) does, harms nobody, but the next call raises ValueError: write to
        torch.from_numpy(params["w"]).clone(). Raises Refused(UNKNOWN_JOB, JOB_NOT_READY), ServerUnavailable.
        """

        def pull() -> Parameters:
            with self._claim:
                self._check_views()
                return self._pull(view, copy=copy)

        return self._given(pull)

    def _pull(self, view: str, *, copy: bool) -> Parameters:
        parameters, base = self._puller.pull(view, copy=copy)
        self._base = base
        self._unapplied.pulled(base)
        return parameters

    def _given(self, call: Callable[[], T]) -> T:
        """What a call returns that moves the base of the next push. Where the caller does not get it, there is none."""
        before = self._base
        try:
            return call()
        except BaseException:
            if self._base is not before:
                self._base = None
            raise

    def gradient_buffers(self) -> dict[str, Float32s]:
        """Arrays to compute the next gradient into: whoever passes this dict to step() or push() has nothing copied.

        They are the server's from then on, until the push has its outcome: ask for them anew for each gradient. Their
        contents are undefined. Raises OutcomeUnknown if all are with the server, Refused, ServerUnavailable.
        """
        self._check_worker()
        with self._claim:
            return self._pusher.free_views()

    def push(self, gradients: Arrays, *, weight: float = 1.0, loss: float | None = None) -> PushResult:
        """Send one gradient, taken at the parameters last pulled; wait for its outcome as the consistency model says.

        gradients: float32, exactly the layout's names and shapes, for a buffer its value; read, not kept. weight:
        examples behind it, > 0. Raises InvalidGradient before anything is sent, EpochSuperseded, ServerUnavailable (it
        does not count), OutcomeUnknown (it may count; the next push or step finds out first), and as on_rejected says.
        """
        self._check_worker()
        with self._claim:
            self._check_views()
            answer, _ = self._push(gradients, weight, loss, pull=False)
            return push_result(answer.outcome, answer.header, answer.finished)

    def _push(self, gradients: Arrays, weight: float, loss: float | None, *, pull: bool) -> Sent:
        base = self._base
        sent = self._pusher.push(gradients, base, weight, loss, pull=pull)
        assert base is not None
        try:
            self._unapplied.pushed(base, sent[0])
        except JobReplaced:
            self._base = None
            raise
        return sent

    def step(
        self, gradients: Arrays, *, weight: float = 1.0, loss: float | None = None, copy: bool = True
    ) -> StepResult:
        """push(), then pull(); in one call for small models and on the server's own machine.

        Raises as push(); OutcomeUnknown, saying what became of the push, also if the pull behind it fails: the gradient
        is not to be sent again.
        """
        self._check_worker()

        def step() -> StepResult:
            with self._claim:
                self._check_views()
                return self._step(gradients, weight, loss, copy=copy)

        return self._given(step)

    def _step(self, gradients: Arrays, weight: float, loss: float | None, *, copy: bool) -> StepResult:
        answer, flat = self._push(gradients, weight, loss, pull=True)
        result = push_result(answer.outcome, answer.header, answer.finished)
        given = None if flat is None else self._puller.given(flat, copy=copy)
        if given is None or not isinstance(answer, pb.StepResponse):
            try:
                return StepResult(**vars(result), parameters=self._pull("train", copy=copy))
            except (ServerUnavailable, Refused) as error:
                self._base = None  # who sends the same gradient again all the same is told to pull first
                text = f"the push is {result.status}, and the parameters after it cannot be pulled: {error}"
                raise OutcomeUnknown(text) from error
        self._base = answer.parameters.version
        return StepResult(**vars(result), parameters=given)

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

    def set_steps(self, steps_max: int, *, expected_revision: int | None = None) -> Change:
        """Let the job end at this global step, above its present one; one that has finished goes on. Raises as
        set_schedules().
        """
        request = change_request(self.job, self._requester, {}, None, None, expected_revision, steps_max)
        return change_of(self._session.call("UpdateJob", request))

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
        request = change_request(self.job, self._requester, schedules, paused, at_step, expected_revision)
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
        parameters: Parameters = {}

        def train(pulls: bool) -> str | None:
            nonlocal parameters
            if pulls:
                parameters = self.pull()
            else:
                gradients, weight, loss = compute(parameters)
                parameters = self.step(gradients, weight=weight, loss=loss).parameters
            return None if self._base is None else self._base.lineage

        with self._unapplied.off():  # where the rate is too high gradients come to nothing
            return take_part(self._session, start, train)

    def snapshot(self) -> str:
        """Save the whole job now; its path on the server's machine. Raises Refused(NO_DATA_DIRECTORY, ...)."""
        session = self._session
        request = pb.CreateSnapshotRequest(job=self.job)
        timeout_s = session.answer_s + VECTORS_MAX * session.layout.size_bytes / DISK_BYTES_PER_S_MIN
        saved = session.persist(lambda: session.transport.call("CreateSnapshot", request, timeout_s))
        return str(saved.snapshot)

    def delete_job(self, *, with_snapshots: bool = False) -> None:
        """Delete the job, whatever its state; whoever works on it gets Refused(JOB_DELETED). Harmless when repeated.

        Its snapshots are put aside on the server's machine, or removed. Raises Refused(UNKNOWN_JOB, STORAGE_FAILED).
        """
        request = pb.DeleteJobRequest(job=self.job, with_snapshots=with_snapshots, requester=self._requester)
        self._session.call("DeleteJob", request)

    def leave(self) -> None:
        """End the membership, out of data; what was committed still counts.

        Harmless without one. Does not insist on an answer.
        """
        self._membership.leave()

    def close(self) -> None:
        """Close the connection without leaving: the membership ends with its lease. No call is possible any more."""
        self._claim.close()
        self._session.close()
        self._membership.stop()
        self._session.transport.close()

    @property
    def _requester(self) -> str:
        return self.name or "observer"

    def _check_views(self) -> None:
        try:
            self._puller.check_unchanged()
        except ValueError:
            self._base = None  # a gradient taken at what was written is none of the server's parameters
            raise

    def _check_worker(self) -> None:
        if self.name is None:
            raise ValueError("expected a worker, got an observer: observers only pull")


def _ended_well(error: BaseException | None) -> bool:
    return isinstance(error, GeneratorExit | None) or (isinstance(error, SystemExit) and error.code in (None, 0))


def _dropped(membership: Membership, process: int) -> None:
    """What is left to do for a worker that the garbage collector has taken; see LeaseKeeper.abandon."""
    if os.getpid() == process:
        membership.abandon()
