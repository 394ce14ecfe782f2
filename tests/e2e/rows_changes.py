"""Bad schedules in a job's specification, bad changes of a running job, bad range tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.rows_jobs import Edit, invalid_spec, schedule, table_of
from tests.e2e.scene import Row, Scene

LR = "optimizer.lr"


def table(*points: tuple[int, float]) -> Edit:
    """A table of these points as the learning rate's schedule."""

    def edit(spec: Any) -> None:
        schedule("table")(spec)
        for step, value in points:
            spec.optimizer.sgdm.lr.table.points.add(step=step, value=value)

    return edit


def sequence(*lengths: int) -> Edit:
    """Constants of these lengths, one after another."""

    def edit(spec: Any) -> None:
        schedule("sequence")(spec)
        for steps in lengths:
            spec.optimizer.sgdm.lr.sequence.parts.add(steps=steps).schedule.constant.lr = 0.1

    return edit


def of_another(name: str, kind: str, **fields: float) -> Edit:
    """The schedule of a hyper-parameter beside lr."""

    def edit(spec: Any) -> None:
        chosen = getattr(spec.optimizer.schedules[name], kind)
        chosen.SetInParent()
        for field, value in fields.items():
            setattr(chosen, field, value)

    return edit


def empty(spec: Any) -> None:
    """A part of a sequence that has no schedule."""
    schedule("sequence")(spec)
    spec.optimizer.sgdm.lr.sequence.parts.add(steps=5)


def two_plateaus(spec: Any) -> None:
    """In one sequence."""
    schedule("sequence")(spec)
    for _ in range(2):
        spec.optimizer.sgdm.lr.sequence.parts.add(steps=5).schedule.plateau.lr = 0.1


PERIODS = {
    "sgdr": ("period", {"lr_max": 0.1}),
    "step": ("step_size", {"lr": 0.1, "gamma": 0.5}),
    "cyclical": ("step_size", {"lr_max": 0.1}),
    "polynomial": ("steps", {"lr_start": 0.1, "power": 1.0}),
    "one_cycle": ("steps", {"lr_max": 0.1}),
    "inverse_sqrt": ("warmup_steps", {"lr": 0.1}),
}

SCHEDULES = [
    *[
        invalid_spec(f"{kind} with {field} {value}", f"{LR}.{field}", schedule(kind, **{**good, field: value}))
        for kind, (field, good) in PERIODS.items()
        for value in (0, -1)
    ],
    invalid_spec("sgdr upside down", f"{LR}.lr_max", schedule("sgdr", lr_max=0.1, lr_min=0.2, period=5)),
    invalid_spec("triangles upside down", f"{LR}.lr_max", schedule("cyclical", lr_max=0.1, lr_min=0.2, step_size=5)),
    invalid_spec("a rate that grows for ever", f"{LR}.gamma", schedule("exponential", lr=0.1, gamma=1.01)),
    invalid_spec(
        "triangles that grow for ever",
        f"{LR}.gamma",
        schedule("cyclical", lr_max=0.1, step_size=5, policy=3, gamma=1.01),
    ),
    invalid_spec("unknown policy", f"{LR}.policy", schedule("cyclical", lr_max=0.1, step_size=5, policy=9)),
    invalid_spec("empty table", f"{LR}.points", table()),
    invalid_spec("table out of order", f"{LR}.points[1]", table((5, 0.1), (4, 0.2))),
    invalid_spec("table with a step twice", f"{LR}.points[1]", table((5, 0.1), (5, 0.2))),
    invalid_spec("table before the start", f"{LR}.points[0]", table((-1, 0.1))),
    invalid_spec("table of NaN", f"{LR}.points[0].value", table((0, math.nan))),
    invalid_spec("empty sequence", f"{LR}.parts", sequence()),
    invalid_spec("sequence of nothing", f"{LR}.parts[0].schedule", empty),
    invalid_spec("a part of no steps", f"{LR}.parts[1].steps", sequence(5, 0)),
    invalid_spec("longer than 2^53", f"{LR}.parts", sequence(2**53, 1)),
    invalid_spec("two plateaus", LR, two_plateaus),
    invalid_spec("plateau of a factor 1", f"{LR}.factor", schedule("plateau", lr=0.1, factor=1.0)),
    invalid_spec("no milestones", f"{LR}.milestones", schedule("multi_step", lr=0.1, gamma=0.5)),
    invalid_spec("momentum 1 in the end", "optimizer.schedules.momentum", of_another("momentum", "constant", lr=1.0)),
    invalid_spec("plateau of momentum", "optimizer.schedules.momentum", of_another("momentum", "plateau", lr=0.5)),
    invalid_spec("schedule of a word", "optimizer.schedules.form", of_another("form", "constant", lr=0.5)),
    invalid_spec("schedule of nothing", "optimizer.schedules.beta1", of_another("beta1", "constant", lr=0.5)),
]


def updating(*, rate: float | None = 0.2, **fields: Any) -> Callable[[Scene], Any]:
    """UpdateJob of the scene's job; rate: a new constant, None for none."""

    def send(scene: Scene) -> Any:
        request = pb.UpdateJobRequest(**{"job": scene.job, "request_id": "change", **fields})
        if rate is not None:
            request.schedules["lr"].constant.lr = rate
        return scene.call("UpdateJob", request)

    return send


def sweeping(**fields: Any) -> Callable[[Scene], Any]:
    """StartRangeTest of the scene's job."""
    good = {"lr_start": 1e-3, "lr_end": 1.0, "steps": 20, "request_id": "test"}
    return lambda scene: scene.call("StartRangeTest", pb.StartRangeTestRequest(**{"job": scene.job, **good, **fields}))


def update(name: str, reason: str, metadata: dict[str, str], send: Callable[[Scene], Any], **fields: Any) -> Row:
    return Row(f"update: {name}", send, reason, metadata, **fields)


def steps_made(scene: Scene) -> None:
    """Two updates."""
    scene.good_step()
    scene.good_step()


def unfit(scene: Scene) -> Any:
    """A schedule that no rule could have."""
    request = pb.UpdateJobRequest(job=scene.job, request_id="change")
    request.schedules["momentum"].constant.lr = 1.0
    return scene.call("UpdateJob", request)


UPDATES = [
    update("of no job", "UNKNOWN_JOB", {"job": "nobody"}, updating(job="nobody")),
    update("without a request id", "INVALID_UPDATE", {"field": "request_id"}, updating(request_id="")),
    update("of nothing", "INVALID_UPDATE", {"field": "schedules"}, updating(rate=None)),
    update(
        "to a state that none is set to", "INVALID_UPDATE", {"field": "state"}, updating(state=pb.JOB_STATE_FINISHED)
    ),
    update("long requester", "INVALID_UPDATE", {"field": "requester"}, updating(requester="x" * 129)),
    update("another revision", "REVISION_MISMATCH", {"expected": "4", "got": "0"}, updating(expected_revision=4)),
    update("a step made", "STEP_PASSED", {"earliest_step": "2"}, updating(at_step=1), arrange=steps_made),
    update("a step beyond all", "INVALID_UPDATE", {"field": "at_step"}, updating(at_step=2**53 + 1)),
    update("a rate that is none", "INVALID_SPEC", {"field": "schedules.lr.lr"}, updating(rate=-1.0)),
    update("a value out of range", "INVALID_SPEC", {"field": "schedules.momentum"}, unfit),
    update(
        "another under the same id",
        "INVALID_UPDATE",
        {"field": "request_id"},
        updating(rate=0.3),
        arrange=updating(rate=0.2),
    ),
]


def update_to_a_table(scene: Scene) -> Any:
    """Of a thousand points."""
    request = pb.UpdateJobRequest(job=scene.job, request_id="long")
    table_of(request.schedules["lr"], 1_000)
    return scene.call("UpdateJob", request)


LONG = [
    Row(
        "update to a schedule that GetJob could not repeat",
        update_to_a_table,
        "LIMIT_EXCEEDED",
        {"limit": "schedules_bytes_max", "limit_value": str(8 << 10)},
        server="short spec",
    ),
]

RANGE_TESTS = [
    Row("range test of no job", sweeping(job="nobody"), "UNKNOWN_JOB"),
    Row("range test backwards", sweeping(lr_end=1e-4), "INVALID_UPDATE", {"field": "lr_end"}),
    Row("range test from zero", sweeping(lr_start=0.0), "INVALID_UPDATE", {"field": "lr_start"}),
    Row("range test to infinity", sweeping(lr_end=math.inf), "INVALID_UPDATE", {"field": "lr_end"}),
    Row("range test of NaN", sweeping(lr_start=math.nan), "INVALID_UPDATE", {"field": "lr_start"}),
    Row("range test of no steps", sweeping(steps=0), "INVALID_UPDATE", {"field": "steps"}),
    Row("range test without end", sweeping(steps=10_001), "INVALID_UPDATE", {"field": "steps"}),
    Row("range test in zigzag", sweeping(sweep=7), "INVALID_UPDATE", {"field": "sweep"}),
    Row("range test without a request id", sweeping(request_id=""), "INVALID_UPDATE", {"field": "request_id"}),
    Row(
        "a range test that never was",
        lambda scene: scene.call("GetRangeTest", pb.GetRangeTestRequest(job=scene.job)),
        "NO_RANGE_TEST",
    ),
]

ROWS = [*SCHEDULES, *UPDATES, *LONG, *RANGE_TESTS]
