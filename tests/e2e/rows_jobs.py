"""Bad requests to JobService."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from optimd_server.runtime import ServerConfig
from optimdpb.codec import job_spec_to_proto
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import WORKER, Row, Scene

Edit = Callable[[Any], Any]

OUT_OF_RANGE = [
    ("sgdw", "momentum", -0.1),
    ("adagrad", "initial_accumulator", -1.0),
    ("adadelta", "rho", 1.5),
    ("rmsprop", "alpha", 1.0),
    ("adamw", "beta2", 1.0),
    ("amsgrad", "eps", math.inf),
    ("adamax", "beta1", math.nan),
    ("nadam", "momentum_decay", -1.0),
    ("radam", "beta2", -0.5),
    ("yogi", "eps", -1e-3),
    ("adabound", "final_lr", 0.0),
    ("swats", "switch_tolerance", -1e-9),
    ("lion", "beta2", 1.0),
    ("lars", "trust_coefficient", -1.0),
    ("lamb", "weight_decay", math.nan),
]


def creating(edit: Edit, *, same_job: bool = False, worker: str = WORKER) -> Callable[[Scene], Any]:
    """CreateJob with an edited copy of the scene's specification, for a new job or for the scene's."""

    def send(scene: Scene) -> Any:
        spec = job_spec_to_proto(scene.spec)
        edit(spec)
        job = scene.job if same_job else f"{scene.job}-new"
        return scene.call("CreateJob", pb.CreateJobRequest(job=job, spec=spec, worker=worker))

    return send


def named(job: str, worker: str = WORKER) -> Callable[[Scene], Any]:
    """CreateJob with a good specification under a bad name."""
    return lambda scene: scene.call(
        "CreateJob", pb.CreateJobRequest(job=job, spec=job_spec_to_proto(scene.spec), worker=worker)
    )


def tensors(*shapes: tuple[str, list[int]]) -> Edit:
    """Replace the layout."""

    def edit(spec: Any) -> None:
        del spec.layout.tensors[:]
        for name, shape in shapes:
            spec.layout.tensors.add(name=name, shape=shape)

    return edit


def rule(name: str, lr: float = 0.1, **fields: Any) -> Edit:
    """Replace the rule."""

    def edit(spec: Any) -> None:
        spec.optimizer.Clear()
        chosen = getattr(spec.optimizer, name)
        chosen.lr.constant.lr = lr
        for field, value in fields.items():
            setattr(chosen, field, value)

    return edit


def schedule(kind: str, **fields: Any) -> Edit:
    """Replace the learning rate's schedule."""

    def edit(spec: Any) -> None:
        spec.optimizer.sgdm.lr.Clear()
        chosen = getattr(spec.optimizer.sgdm.lr, kind)
        chosen.SetInParent()
        for field, value in fields.items():
            setattr(chosen, field, value)

    return edit


def warmups(depth: int) -> Edit:
    """Warm-ups in warm-ups around a constant: depth schedules in all."""

    def edit(spec: Any) -> None:
        innermost = spec.optimizer.sgdm.lr
        innermost.Clear()
        for _ in range(depth - 1):
            innermost.warmup.steps = 2
            innermost = innermost.warmup.schedule
        innermost.constant.lr = 0.1

    return edit


def consistency(**fields: Any) -> Edit:
    """Change Sync."""
    return lambda spec: [setattr(spec.consistency.sync, field, value) for field, value in fields.items()]


def unset(field: str) -> Edit:
    """Remove a field."""
    return lambda spec: spec.ClearField(field)


def unknown_field(spec: Any) -> None:
    """A hyper-parameter of a later contract."""
    spec.optimizer.sgdm.MergeFromString(b"\x98\x06\x01")  # field 99, varint 1


def first_tensor(**fields: Any) -> Edit:
    """Change the first tensor."""
    return lambda spec: [setattr(spec.layout.tensors[0], field, value) for field, value in fields.items()]


def group_of_dimensions(**fields: Any) -> Edit:
    """Add a group of tensors of any name."""
    return lambda spec: spec.groups.add(pattern="*", **fields)


def group(pattern: str, lr_multiplier: float = 1.0, **hyper_parameters: float) -> Edit:
    """Add a group."""
    return lambda spec: spec.groups.add(pattern=pattern, lr_multiplier=lr_multiplier, hyper_parameters=hyper_parameters)


def padded(spec: Any) -> None:
    """Above two MiB."""
    spec.layout.tensors.add(name="x" * (2 << 20), shape=[1])


def table_of(schedule: Any, points: int = 500) -> None:
    """Replace it by a table."""
    schedule.Clear()
    for step in range(points):
        schedule.table.points.add(step=step, value=0.5)


def tables_in_a_sequence(spec: Any) -> None:
    """Each is short enough."""
    lr = spec.optimizer.sgdm.lr
    lr.Clear()
    for _ in range(10):
        part = lr.sequence.parts.add(steps=2000)
        table_of(part.schedule, 1100)


def many_schedules(spec: Any) -> None:
    """More than a rule has hyper-parameters."""
    for number in range(33):
        spec.optimizer.schedules[f"h{number}"].constant.lr = 0.1


def mismatch(name: str, field: str, edit: Edit) -> Row:
    """The scene's job created again with a difference."""
    return Row(f"create again: {name}", creating(edit, same_job=True), "JOB_MISMATCH", {"field": field})


def invalid_spec(name: str, field: str, edit: Edit) -> Row:
    return Row(f"spec: {name}", creating(edit), "INVALID_SPEC", {"field": field})


def invalid_layout(name: str, tensor: str, edit: Edit) -> Row:
    return Row(f"layout: {name}", creating(edit), "INVALID_LAYOUT", {"tensor": tensor})


def list_jobs(**fields: Any) -> Callable[[Scene], Any]:
    return lambda scene: scene.call("ListJobs", pb.ListJobsRequest(**fields))


MISMATCHES = [
    mismatch("another shape", "layout.tensors[0]", lambda spec: spec.layout.tensors[0].shape.append(1)),
    mismatch("another name", "layout.tensors[0].name", first_tensor(name="v")),
    mismatch("one tensor more", "layout.tensors", lambda spec: spec.layout.tensors.add(name="extra")),
    mismatch("another rule", "optimizer", rule("adam")),
    mismatch("another hyper-parameter", "optimizer.momentum", rule("sgdm", momentum=0.5)),
    mismatch("another learning rate", "optimizer.lr", rule("sgdm", lr=0.2)),
    mismatch("another schedule", "optimizer.lr", schedule("linear", lr_start=0.1, lr_end=0.2, steps=5)),
    mismatch("another consistency", "consistency.workers", consistency(workers=2)),
    mismatch("another reduction", "reduction", lambda spec: setattr(spec, "reduction", pb.REDUCTION_SUM)),
    mismatch("a clip", "clip", lambda spec: setattr(spec.clip, "global_norm", 1.0)),
    mismatch("another steps_max", "steps_max", lambda spec: setattr(spec, "steps_max", 5)),
    mismatch("a rejections_max", "rejections_max", lambda spec: setattr(spec, "rejections_max", 5)),
]

SPECS = [
    Row(
        "spec: absent",
        lambda scene: scene.call("CreateJob", pb.CreateJobRequest(job="j", worker="w")),
        "MALFORMED_REQUEST",
        {"field": "spec"},
    ),
    invalid_spec("no optimizer", "optimizer", unset("optimizer")),
    invalid_spec("no rule", "optimizer", lambda spec: spec.optimizer.Clear() or spec.optimizer.SetInParent()),
    invalid_spec("no learning rate", "optimizer.lr", lambda spec: spec.optimizer.sgdm.ClearField("lr")),
    invalid_spec(
        "empty schedule",
        "optimizer.lr",
        lambda spec: spec.optimizer.sgdm.lr.Clear() or spec.optimizer.sgdm.lr.SetInParent(),
    ),
    invalid_spec("unknown field in the rule", "optimizer", unknown_field),
    invalid_spec("unknown enum value", "optimizer.form", rule("sgdm", form=77)),
    invalid_spec("unknown reduction", "reduction", lambda spec: setattr(spec, "reduction", 9)),
    invalid_spec("unknown tensor kind", "layout.tensors[0].kind", first_tensor(kind=5)),
    invalid_spec("beta1 1", "optimizer.beta1", rule("adam", beta1=1.0)),
    invalid_spec("beta2 NaN", "optimizer.beta2", rule("adam", beta2=math.nan)),
    invalid_spec("eps negative", "optimizer.eps", rule("adam", eps=-1e-8)),
    invalid_spec("lr negative", "optimizer.lr.lr", rule("sgd", lr=-0.1)),
    invalid_spec("lr NaN", "optimizer.lr.lr", rule("sgd", lr=math.nan)),
    invalid_spec("lr infinite", "optimizer.lr.lr", rule("sgd", lr=math.inf)),
    invalid_spec("weight_decay negative", "optimizer.weight_decay", rule("sgd", weight_decay=-1.0)),
    invalid_spec("momentum 1", "optimizer.momentum", rule("sgdm", momentum=1.0)),
    invalid_spec("nesterov without momentum", "optimizer.nesterov", rule("sgdm", nesterov=True, momentum=0.0)),
    invalid_spec("no steps", "optimizer.lr.steps", schedule("linear", lr_start=0.1)),
    invalid_spec("lr_max below lr_min", "optimizer.lr.lr_max", schedule("cosine", lr_max=0.1, lr_min=0.2, steps=5)),
    invalid_spec("warm-up of nothing", "optimizer.lr.schedule", schedule("warmup", steps=5)),
    invalid_spec("warm-up 9 deep", "optimizer.lr" + ".schedule" * 8, warmups(9)),
    invalid_spec("no consistency", "consistency", unset("consistency")),
    invalid_spec("no workers", "consistency.workers", consistency(workers=0)),
    invalid_spec("workers_min above workers", "consistency.workers_min", consistency(workers_min=2)),
    invalid_spec("clip 0", "clip", lambda spec: setattr(spec.clip, "global_norm", 0.0)),
    invalid_spec("clip NaN", "clip", lambda spec: setattr(spec.clip, "global_norm", math.nan)),
    invalid_spec("empty clip", "clip", lambda spec: spec.clip.SetInParent()),
    invalid_spec("clip by tensor negative", "clip", lambda spec: setattr(spec.clip, "tensor_norm", -1.0)),
    invalid_spec("clip by value infinite", "clip", lambda spec: setattr(spec.clip, "value", math.inf)),
    invalid_spec("group without a pattern", "groups[0].pattern", group(pattern="")),
    invalid_spec("group that matches nothing", "groups[0].pattern", group(pattern="encoder.*")),
    invalid_spec("group of a buffer", "groups[0].pattern", lambda spec: [first_tensor(kind=2)(spec), group("w")(spec)]),
    invalid_spec("group of scalars, and there are none", "groups[0].ndim_max", group_of_dimensions(ndim_max=0)),
    invalid_spec("group of 3 dimensions, and there are none", "groups[0].ndim_min", group_of_dimensions(ndim_min=3)),
    invalid_spec("fewest dimensions above most", "groups[0].ndim_min", group_of_dimensions(ndim_min=2, ndim_max=1)),
    invalid_spec("33 dimensions", "groups[0].ndim_max", group_of_dimensions(ndim_max=33)),
    invalid_spec("dimensions negative", "groups[0].ndim_min", group_of_dimensions(ndim_min=-1)),
    invalid_spec("dimensions as a hyper-parameter", "groups[0].ndim_max", group("*", ndim_max=1.0)),
    invalid_spec("multiplier negative", "groups[0].lr_multiplier", group("*", lr_multiplier=-1.0)),
    invalid_spec("multiplier NaN", "groups[0].lr_multiplier", group("*", lr_multiplier=math.nan)),
    invalid_spec("hyper-parameter of another rule", "groups[0].beta1", group("*", beta1=0.5)),
    invalid_spec("unknown hyper-parameter", "groups[0].learning_rate", group("*", learning_rate=0.5)),
    invalid_spec("hyper-parameter out of range in a group", "groups[0].momentum", group("*", momentum=1.0)),
    *[
        invalid_spec(f"{field} of {name} out of range", f"optimizer.{field}", rule(name, **{field: value}))
        for name, field, value in OUT_OF_RANGE
    ],
    invalid_spec("steps_max 0", "steps_max", lambda spec: setattr(spec, "steps_max", 0)),
]

MODELS = [
    invalid_spec(
        "negative staleness_max",
        "consistency.staleness_max",
        lambda spec: setattr(spec.consistency.__getattribute__("async"), "staleness_max", -1),
    ),
    invalid_spec(
        "delay compensation without a bound",
        "consistency.delay_compensation",
        lambda spec: setattr(spec.consistency.__getattribute__("async"), "delay_compensation", 0.1),
    ),
    invalid_spec("negative ssp", "consistency.staleness", lambda spec: setattr(spec.consistency.ssp, "staleness", -1)),
    Row(
        "more workers than may join",
        creating(consistency(workers=5000)),
        "LIMIT_EXCEEDED",
        {"limit": "workers_max", "limit_value": "4096", "value": "5000"},
    ),
    invalid_spec("quorum above workers", "consistency.quorum", consistency(quorum=2)),
]

LAYOUTS = [
    invalid_layout("empty", "", tensors()),
    invalid_layout("duplicate name", "w", tensors(("w", [1]), ("w", [2]))),
    invalid_layout("empty name", "", tensors(("", [1]))),
    invalid_layout("control character in a name", "a\nb", tensors(("a\nb", [1]))),
    invalid_layout("negative dimension", "w", tensors(("w", [3, -1]))),
    invalid_layout("dimension above 2^53", "w", tensors(("w", [2**60]))),
    Row(
        "layout: ten bytes that declare 2^40 elements",
        creating(tensors(("w", [2**40]))),
        "LIMIT_EXCEEDED",
        {"limit": "parameters_bytes_max", "value": str(2**42)},
    ),
    Row(
        "layout: product above int64",
        creating(tensors(("w", [2**40, 2**40]))),
        "LIMIT_EXCEEDED",
        {"limit": "parameters_bytes_max", "value": str(2**82)},
    ),
    Row(
        "layout: more than the machine's memory",
        creating(tensors(("w", [ServerConfig().parameters_bytes_max // 4 + 1]))),
        "LIMIT_EXCEEDED",
        {"limit": "parameters_bytes_max"},
    ),
    Row(
        "layout: too many tensors",
        creating(tensors(*[(f"t{i}", [1]) for i in range(9)])),
        "LIMIT_EXCEEDED",
        {"limit": "tensors_max", "limit_value": "8", "value": "9"},
    ),
    invalid_layout("33 dimensions", "w", tensors(("w", [1] * 33))),
    invalid_layout("50,000 dimensions of 2^53", "w", tensors(("w", [2**53] * 50_000))),
]

NAMES = [
    Row(f"name of a job: {name!r:.20}", named(name), "INVALID_NAME", {"field": "job"})
    for name in ("", "a b", "é", "job\n", "a\\b", "x" * 129)
] + [
    Row(f"name of a worker: {name!r:.20}", named("good", worker=name), "INVALID_NAME", {"field": "worker"})
    for name in ("", "a b", "x" * 129)
]

# An error that repeated these in full would not fit a client's limit for trailers.
LONG = [
    Row("long job name", lambda scene: scene.call("GetJob", pb.GetJobRequest(job="\0" * 100_000)), "UNKNOWN_JOB"),
    Row("long page token", list_jobs(page_token="é" * 100_000), "MALFORMED_REQUEST"),
    Row("long tensor name", creating(tensors(("😀" * 100_000, [1]))), "INVALID_LAYOUT"),
    Row("long shape", creating(tensors(("w", [-1] * 50_000))), "INVALID_LAYOUT"),
]

LONG.append(
    Row(
        "a request larger than any",
        lambda scene: scene.call("GetJob", pb.GetJobRequest(job="x" * (3 << 20))),
        "LIMIT_EXCEEDED",
        {"limit": "request_bytes_max"},
    )
)

LISTS = [
    Row("page size negative", list_jobs(page_size=-1), "MALFORMED_REQUEST", {"field": "page_size"}),
    Row("page size 1001", list_jobs(page_size=1001), "MALFORMED_REQUEST", {"field": "page_size"}),
    Row("page token made up", list_jobs(page_token="!"), "MALFORMED_REQUEST", {"field": "page_token"}),
    Row("page token not ASCII", list_jobs(page_token="é"), "MALFORMED_REQUEST", {"field": "page_token"}),
]

LISTS_TOO_LONG = [
    Row("spec: above spec_bytes_max", creating(padded), "LIMIT_EXCEEDED", {"limit": "spec_bytes_max"}),
    Row(
        "spec: above groups_max",
        creating(lambda spec: [group("w")(spec) for _ in range(1001)]),
        "LIMIT_EXCEEDED",
        {"limit": "groups_max", "limit_value": "1000", "value": "1001"},
    ),
    Row(
        "spec: schedules that GetJob could not repeat",
        creating(lambda spec: [table_of(spec.optimizer.schedules[name]) for name in ("momentum", "weight_decay")]),
        "LIMIT_EXCEEDED",
        {"limit": "schedules_bytes_max"},
        server="short spec",
    ),
    invalid_spec(
        "a table of 10,001 points", "optimizer.lr.points", lambda spec: table_of(spec.optimizer.sgdm.lr, 10_001)
    ),
    invalid_spec("11,000 points in ten tables", "optimizer.lr.parts[9].schedule.points", tables_in_a_sequence),
    invalid_spec("33 schedules", "optimizer.schedules", many_schedules),
    invalid_spec("a pattern of 201 characters", "groups[0].pattern", group("*" * 201)),
]

FULL = [
    Row("a job above jobs_max", creating(lambda spec: None), "LIMIT_EXCEEDED", {"limit": "jobs_max"}, server="full"),
]

SNAPSHOTS = [
    Row(
        "snapshot without a data directory",
        lambda scene: scene.call("CreateSnapshot", pb.CreateSnapshotRequest(job=scene.job)),
        "NO_DATA_DIRECTORY",
    ),
    Row(
        "snapshot of no job",
        lambda scene: scene.call("CreateSnapshot", pb.CreateSnapshotRequest(job="nobody")),
        "UNKNOWN_JOB",
        {"job": "nobody"},
    ),
]

ROWS = [*MISMATCHES, *SPECS, *MODELS, *LAYOUTS, *NAMES, *LONG, *LISTS, *LISTS_TOO_LONG, *FULL, *SNAPSHOTS]
