"""What is too much is refused before it is worked through."""

from __future__ import annotations

import time
from typing import Any

import pytest
from optimdpb import codec
from optimdpb.codec import job_spec_from_proto, schedules_from_proto
from optimdpb.errors import InvalidLayout, InvalidSpec
from optimdpb.specs import SGDM, Adam, Group, JobSpec, Layout, OneCycle, Sequence, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb


def table(points: int) -> pb.Schedule:
    schedule = pb.Schedule()
    schedule.table.points.extend([pb.TablePoint(step=step, value=0.5) for step in range(points)])
    return schedule


def sequence(parts: int, part: pb.Schedule) -> pb.Schedule:
    schedule = pb.Schedule()
    schedule.sequence.parts.extend([pb.SequencePart(steps=10, schedule=part)] * parts)
    return schedule


CONSTANT = pb.Schedule(constant=pb.Constant(lr=0.1))
TOO_MANY = {
    "a table": (table(10_001), 0),
    "a sequence": (sequence(10_001, CONSTANT), 0),
    "tables in a sequence": (sequence(10, table(1_000)), 9_010),
    "sequences in a sequence": (sequence(100, sequence(100, CONSTANT)), 10_000),
}


@pytest.mark.parametrize(("schedule", "read_max"), TOO_MANY.values(), ids=list(TOO_MANY))
def test_entries_are_counted_before_they_are_read(
    schedule: pb.Schedule, read_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    real = codec._entry

    def entry(*arguments: Any) -> Any:
        nonlocal read
        read += 1
        return real(*arguments)

    monkeypatch.setattr(codec, "_entry", entry)
    with pytest.raises(InvalidSpec, match="expected at most 10000 entries in all, got "):
        schedules_from_proto("schedules", {"lr": schedule})
    assert read <= read_max


def test_schedules_are_counted_before_they_are_read() -> None:
    with pytest.raises(InvalidSpec, match="schedules: expected at most 32 schedules, got 33"):
        schedules_from_proto("schedules", {f"h{number}": table(20_000) for number in range(33)})


def test_what_is_legal_is_read() -> None:
    legal = {"lr": sequence(10, table(999)), "momentum": table(10_000)}
    assert schedules_from_proto("schedules", legal)["lr"].entries() == 10_000


def test_patterns_and_names_that_are_slow_on_purpose_take_no_minutes() -> None:
    """A tenth of what a server lets pass. One by one, by regular expressions, they took 20 s and all of it minutes."""
    names = [*("a" * 190 + str(number) for number in range(8_000)), "a" * 190 + "b"]
    layout = Layout(tuple(Tensor(name, (1,)) for name in names))
    groups = tuple(Group("*" + "?" * (60 + number) + "b", weight_decay=0.0) for number in range(100))
    began_s = time.process_time()
    spec = JobSpec(layout, Adam(0.1), Sync(1), groups=groups)
    assert spec.tensor_groups == (*([None] * 8_000), 0)
    assert time.process_time() - began_s < 10.0


def test_a_rule_is_checked_again_for_each_group_at_no_great_cost() -> None:
    """With a thousand groups a rule under nine thousand cycles took minutes."""
    schedule = Sequence([(5, OneCycle(0.1, 4))] * 9_000)
    layout = Layout(tuple(Tensor(f"t{number}", (1,)) for number in range(300)))
    groups = tuple(Group(f"t{number}", weight_decay=number / 10) for number in range(300))
    began_s = time.perf_counter()
    JobSpec(layout, Adam(lr=schedule), Sync(1), groups=groups)
    assert time.perf_counter() - began_s < 10.0


def test_the_momentum_of_the_worst_cycle_is_the_one_that_is_checked() -> None:
    cycles = [OneCycle(0.1, 4), OneCycle(0.1, 4, momentum_min=0.0), OneCycle(0.1, 4)]
    schedule = Sequence([(5, cycle) for cycle in cycles])
    with pytest.raises(InvalidSpec, match="nesterov"):
        SGDM(lr=schedule, nesterov=True)


def test_dimensions_are_counted_before_they_are_read() -> None:
    message = pb.JobSpec()
    message.layout.tensors.add(name="w", shape=[1] * 200_000)
    message.optimizer.sgd.lr.constant.lr = 0.1
    message.consistency.sync.workers = 1
    with pytest.raises(InvalidLayout, match="expected at most 32 dimensions, got 200000"):
        job_spec_from_proto(message)
