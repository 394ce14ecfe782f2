"""A range test: every round under the sweep's rate, everything as before at its end, and every way to end."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optimd_server.core.effects import Apply, Keep, PutBackKept, RangeTestTaken, Reason, Status
from optimd_server.core.events import Applied, HaltRequested, Kept, PutBack, RangeTestRequested, UpdateRequested
from optimd_server.core.range_test import Phase, RangeTest
from optimd_server.core.saved import saved_state
from optimdpb.errors import Refused
from optimdpb.specs import SGD, SWATS, Async, Linear, NAdam, Plateau, Ssp, Sync

from tests.unit.core.conftest import Job
from tests.unit.core.test_clock import train, training
from tests.unit.core.test_saved import restored

MODELS = [Sync(1), Async(), Ssp(2)]
FRESH = "lineage-2"
STOP = UpdateRequested("stop", "operator", 1e9, None, None, (), False)


def request(**fields: Any) -> RangeTestRequested:
    values: dict[str, Any] = {
        "request_id": "a",
        "requester": "operator",
        "unix_s": 1e9,
        "lr_start": 1e-3,
        "lr_end": 1.0,
        "steps": 10,
        "sweep": "exponential",
        "lineage": FRESH,
    }
    return RangeTestRequested(**{**values, **fields})


def test_of(job: Job) -> RangeTest:
    found = job.machine.state.range_test
    assert found is not None
    return found


test_of.__test__ = False  # type: ignore[attr-defined]


def sweep(job: Job, losses: Any, **fields: Any) -> RangeTest:
    """A range test whose rounds have these losses."""
    job.send(request(**fields))
    for loss in losses:
        train(job, 1, loss=loss)
    return test_of(job)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_rounds_are_made_under_the_sweep_and_everything_is_put_back(model: Any) -> None:
    job = training(NAdam(Linear(0.5, 0.1, 100)), 3, consistency=model)
    before = saved_state(job.machine)
    found = sweep(job, [2.0] * 10)
    rates = [1e-3 * 1000 ** (i / 9) for i in range(10)]
    assert job.rates()[3:] == pytest.approx(rates, rel=1e-12)
    assert [point.learning_rate for point in found.points] == job.rates()[3:]
    assert [point.step for point in found.points] == list(range(3, 13))
    assert (found.end, found.phase) == ("completed", Phase.DONE)
    after = saved_state(job.machine)
    assert (after["lineage"], after["step"]) == (FRESH, 3)
    for same in ("rule_count", "memories", "clock", "last_round"):
        assert after[same] == before[same], same
    assert [entry.change for entry in job.machine.state.history[1:]] == [
        "range test: 0.001 to 1 in 10 steps, exponential",
        "range test over: completed",
    ]
    train(job, 1)
    assert job.rates()[-1] == pytest.approx(0.5 - 0.4 * 3 / 100)
    assert job.rounds()[-1].memories == job.rounds()[3].memories


def test_a_linear_sweep() -> None:
    job = training(SGD(0.5))
    sweep(job, [1.0] * 10, sweep="linear", lr_start=1.0, lr_end=10.0)
    assert job.rates() == pytest.approx(range(1, 11))


def test_the_state_is_put_aside_between_two_updates() -> None:
    job = training(SGD(0.5), consistency=Async())
    job.join("w1")
    job.auto_apply = False
    job.push("w0")
    job.send(request())
    job.push("w1")
    assert [type(effect) for effect in job.effects if isinstance(effect, Apply | Keep)] == [Apply]
    job.send(Applied(0))
    assert isinstance(job.effects[-1], Keep)
    assert job.machine.waiting_for(0.0) == "a range test is keeping"
    assert job.outcome("w1") is None
    job.send(Kept(True))
    assert [type(effect) for effect in job.effects if isinstance(effect, Apply | Keep)] == [Apply, Keep, Apply]
    job.send(Applied(1))
    assert (job.rates()[1], test_of(job).points[0].step) == (1e-3, 1)


def test_pushes_of_before_the_end_are_discarded_after_it() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("w0", "w1")
    job.send(request())
    for _ in range(9):
        job.push("w0", loss=1.0)
        job.push("w1", loss=1.0)
    job.push("w0", loss=1.0)
    job.join("w2")
    job.push("w2")  # held: it is no member of the round
    job.auto_apply = False
    job.push("w1", loss=1.0)
    job.send(Applied(9))
    assert isinstance(job.effects[-1], PutBackKept)
    late = job.push("w0", base_step=10)
    assert not [effect for effect in late if isinstance(effect, Apply)]
    job.send(PutBack(0))
    for worker in ("w0", "w2"):
        outcome = job.outcome(worker)
        assert outcome is not None
        assert (outcome.status, outcome.reason) == (Status.DISCARDED, Reason.LINEAGE_CHANGED)
    assert job.outcome("w1").status is Status.APPLIED  # type: ignore[union-attr]


def test_a_worker_that_is_there_twice_is_answered_twice() -> None:
    """Its older epoch has spoken in the round, its newer one holds a push."""
    job = Job(consistency=Sync(2)).ready()
    job.join("w0", "w1")
    job.send(request())
    job.push("w0", loss=1.0)
    older = job.epochs["w0"]
    job.join("w0")
    job.push("w0", loss=1.0)
    job.send(STOP)
    for epoch in (older, job.epochs["w0"]):
        outcome = job.outcome("w0", 1, epoch)
        assert outcome is not None
        assert outcome.reason is Reason.LINEAGE_CHANGED


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_it_stops_where_the_loss_grows(model: Any) -> None:
    job = training(SGD(0.5), consistency=model)
    found = sweep(job, [2.0, 1.9, 1.5, 1.0, 0.5, 0.6, 50.0], steps=100)
    assert (found.end, len(found.points)) == ("diverged", 7)
    assert found.suggestion is not None
    assert "the loss grew to 50 at the rate" in found.suggestion.explanation
    assert job.machine.version.step == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_divergence(loss: float) -> None:
    found = sweep(training(SGD(0.5)), [2.0, 1.0, loss], steps=100)
    assert found.end == "diverged"
    assert found.points[-1].loss is None


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("magnitude", [math.inf, 1e30])
def test_a_gradient_that_is_rejected_is_divergence_and_not_held_against_its_worker(
    model: Any, magnitude: float
) -> None:
    job = training(SGD(0.5), consistency=model, rejections_max=1)
    sweep(job, [2.0, 1.9], steps=100)
    job.push("w0", magnitude, loss=1.0)
    found = test_of(job)
    assert (found.end, found.phase) == ("diverged", Phase.DONE)
    assert job.outcome("w0").status is Status.REJECTED  # type: ignore[union-attr]
    assert job.machine.state.members.is_live("w0", job.epochs["w0"])
    assert (job.machine.version.lineage, job.machine.version.step) == (FRESH, 0)


def test_losses_that_are_never_reported_end_it() -> None:
    found = sweep(training(SGD(0.5)), [None])
    assert found.end == "no_loss"
    assert found.suggestion is not None
    assert found.suggestion.lr_base is None
    assert "the workers report no loss" in found.suggestion.explanation


def test_it_is_stopped() -> None:
    job = training(SGD(0.5))
    sweep(job, [1.0] * 3)
    job.update("stop", paused=False)
    assert (test_of(job).end, test_of(job).phase, job.machine.version.step) == ("stopped", Phase.DONE, 0)


@pytest.mark.parametrize("when", ["wanted", "keeping", "sweeping", "putting back"])
def test_it_is_stopped_at_any_moment(when: str) -> None:
    job = training(SGD(0.5))
    job.auto_apply = False
    job.push("w0")
    if when != "wanted":
        job.send(Applied(0))
    job.send(request())
    if when in ("sweeping", "putting back"):
        job.send(Kept(True))
    if when == "putting back":
        job.push("w0", loss=math.nan)
        job.send(Applied(1))
    assert test_of(job).phase.value == when
    job.auto_apply = True
    job.send(STOP)
    if when == "wanted":
        job.send(Applied(0))
    elif when == "keeping":
        job.send(Kept(True))
    elif when == "putting back":
        job.send(PutBack(1))
    assert test_of(job).phase is Phase.DONE
    assert test_of(job).end == ("diverged" if when == "putting back" else "stopped")
    assert f"range test over: {test_of(job).end}" in [entry.change for entry in job.machine.state.history]
    assert (job.machine.version.step, job.machine.version.lineage == FRESH) == (1, when != "wanted")
    train(job, 2)
    assert len(job.rounds()) == (4 if when == "putting back" else 3)


def test_without_memory_nothing_happens() -> None:
    job = training(SGD(0.5))
    job.auto_apply = False
    job.send(request())
    job.send(Kept(False))
    assert (test_of(job).end, test_of(job).phase) == ("no_memory", Phase.DONE)
    assert job.machine.state.history[-1].change == "range test over: no_memory"
    assert job.machine.version.lineage != FRESH
    job.auto_apply = True
    train(job, 1)
    assert job.rates() == [0.5]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no first rate": ({"lr_start": 0.0}, "lr_start"),
    "a first rate that is no number": ({"lr_start": math.nan}, "lr_start"),
    "a first rate below float32": ({"lr_start": 5e-324, "lr_end": 1e-3}, "lr_start"),
    "falling": ({"lr_end": 1e-3}, "lr_end"),
    "rates that coincide": ({"lr_start": 1.0, "lr_end": math.nextafter(1.0, 2.0)}, "lr_end"),
    "rates that hardly rise": ({"lr_start": 1.0, "lr_end": 1.009}, "lr_end"),
    "a last rate beyond float32": ({"lr_end": 1e300}, "lr_end"),
    "without end": ({"lr_end": math.inf}, "lr_end"),
    "too short": ({"steps": 9}, "steps"),
    "too long": ({"steps": 10_001}, "steps"),
    "another sweep": ({"sweep": "zigzag"}, "sweep"),
    "no request id": ({"request_id": ""}, "request_id"),
}


@pytest.mark.parametrize(("fields", "field"), REFUSED.values(), ids=REFUSED)
def test_bad_requests(fields: dict[str, Any], field: str) -> None:
    job = training(SGD(0.5), 1)
    before = saved_state(job.machine)
    with pytest.raises(Refused, match=f"^{field}: expected") as refused:
        job.send(request(**fields))
    assert (refused.value.reason, refused.value.metadata["field"]) == ("INVALID_UPDATE", field)
    assert saved_state(job.machine) == before


def test_states_that_allow_none() -> None:
    paused, finished, running = training(SGD(0.5)), training(SGD(0.5), 1, steps_max=1), training(SGD(0.5))
    paused.update("stop", paused=True)
    running.send(request())
    for job, state in ((paused, "PAUSED"), (finished, "FINISHED"), (running, "RANGE_TEST")):
        with pytest.raises(Refused, match=f"the job is {state}") as refused:
            job.send(request(request_id="b"))
        assert refused.value.reason == "WRONG_STATE"
    for change in ({"lr": 0.1}, {"paused": True}):
        with pytest.raises(Refused, match="the job is RANGE_TEST"):
            running.update("c", **change)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="waits for its parameters"):
        Job().send(request())


def test_asking_again_starts_no_second_one() -> None:
    job = training(SGD(0.5))
    sweep(job, [1.0] * 10)
    assert job.send(request()) == [RangeTestTaken()]
    assert test_of(job).phase is Phase.DONE
    job.send(request(request_id="b", lineage="lineage-3"))
    assert test_of(job).active


@pytest.mark.parametrize("fields", [{"lr_end": 2.0}, {"steps": 11}, {"sweep": "linear"}], ids=str)
def test_the_same_id_with_another_sweep_is_refused(fields: dict[str, Any]) -> None:
    job = training(SGD(0.5))
    job.send(request())
    for rounds in (0, 10):  # while it runs, and when it is over
        train(job, rounds, loss=1.0)
        before = saved_state(job.machine)
        with pytest.raises(Refused, match="another name") as refused:
            job.send(request(**fields))
        assert (refused.value.reason, refused.value.metadata["field"]) == ("INVALID_UPDATE", "request_id")
        assert job.send(request(requester="somebody else", unix_s=2e9, lineage="lineage-3")) == [RangeTestTaken()]
        assert saved_state(job.machine) == before


def test_none_begins_on_a_job_that_will_be_paused_or_finished_by_then() -> None:
    paused, finished = training(SGD(0.5)), training(SGD(0.5), steps_max=1)
    for job, state in ((paused, "PAUSED"), (finished, "FINISHED")):
        job.auto_apply = False
        job.push("w0")
        if job is paused:
            job.update("pause", at_step=1, paused=True)
        with pytest.raises(Refused, match=f"the job is {state}") as refused:
            job.send(request())
        assert refused.value.reason == "WRONG_STATE"
    paused.update("resume", at_step=1, paused=False)
    paused.send(request())
    paused.auto_apply = True
    paused.send(Applied(0))
    train(paused, 1, loss=1.0)
    assert len(test_of(paused).points) == 1


def test_a_pause_to_come_later_waits_for_its_step_behind_the_test() -> None:
    job = training(SGD(0.5))
    job.update("pause", at_step=2, paused=True)
    sweep(job, [1.0] * 10)
    train(job, 2)
    assert (job.machine.version.step, job.machine.state.clock.paused) == (2, True)


def test_it_may_go_beyond_the_last_step() -> None:
    job = training(SGD(0.5), 2, steps_max=3)
    sweep(job, [1.0] * 10)
    assert (job.machine.version.step, job.machine.state.finished) == (2, False)
    train(job, 1)
    assert job.machine.state.finished


def test_changes_to_come_wait_for_their_step_behind_it() -> None:
    job = training(SGD(0.5))
    job.update("a", at_step=2, lr=0.25)
    sweep(job, [1.0] * 10)
    train(job, 3)
    assert job.rates()[10:] == [0.5, 0.5, 0.25]


def test_a_plateau_hears_nothing_of_it() -> None:
    job = training(SGD(Plateau(1.0, patience=0)))
    train(job, 1, loss=1.0)
    state = job.machine.state.clock.plateau
    sweep(job, [1.0] * 10)
    assert job.machine.state.clock.plateau == state


def test_swats_forgets_a_switch_of_the_sweep() -> None:
    job = training(SWATS(0.5, switch_tolerance=1e9), 1)
    sweep(job, [1.0] * 10)
    assert job.machine.state.memories[0][0] == 0.0


def test_workers_come_and_go_meanwhile() -> None:
    job = training(SGD(0.5), consistency=Sync(1))
    sweep(job, [1.0] * 3)
    job.join("w1")
    train(job, 1, loss=1.0)
    for _ in range(3):
        job.push("w0", loss=1.0)
        job.push("w1", loss=1.0)
    job.leave("w0")
    for _ in range(3):
        job.push("w1", loss=1.0)
    assert [point.contributions for point in test_of(job).points] == [1] * 4 + [2] * 3 + [1] * 3
    assert test_of(job).end == "completed"


def test_its_result_outlives_a_restart() -> None:
    job = training(SGD(0.5))
    found = sweep(job, [2.0, 2.0, 1.9, 1.5, 1.0, 0.5, 0.4, 0.5, 0.9, 1.9])
    assert found.suggestion is not None
    assert found.suggestion.lr_base is not None
    again = test_of(restored(job))
    assert (again.suggestion, again.points, again.request) == (found.suggestion, found.points, found.request)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_server_that_ends_puts_back_and_makes_no_update_more(model: Any) -> None:
    job = training(SGD(1.0), 2, consistency=model)
    before = saved_state(job.machine)
    sweep(job, [1.0, 1.0])
    job.auto_apply = False
    job.push("w0", loss=1.0)
    job.send(HaltRequested())
    assert [effect for effect in job.effects if isinstance(effect, PutBackKept)] == []
    job.send(Applied(4))
    job.send(PutBack(2))
    assert test_of(job).phase is Phase.DONE
    after = saved_state(job.machine)
    assert (after["step"], after["rule_count"], after["lineage"]) == (before["step"], before["rule_count"], FRESH)
    job.push("w0")
    assert job.machine.rounds.closing is None
    assert job.outcome("w0") is None
