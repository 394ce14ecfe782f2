"""Plateau, the one schedule with a state: which losses it hears, and what starts it afresh."""

from __future__ import annotations

import math

import pytest
from optimdpb.specs import SGD, SGDM, Async, Plateau, Sequence

from tests.unit.core.conftest import Job, train, training


def test_a_plateau_that_begins_hears_nothing_of_the_round_before() -> None:
    job = training(SGD(0.5))
    job.update("a", at_step=1, lr=Plateau(1.0, factor=0.5, patience=0))
    train(job, 1, loss=1.0)
    train(job, 1, loss=2.0)
    assert job.machine.state.learning_rate() == 1.0  # 2.0 is the first loss it hears, no failure to improve


def test_plateau_follows_the_losses_of_rounds() -> None:
    job = training(SGD(Plateau(1.0, factor=0.5, patience=1)))
    for loss in (1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8):
        train(job, 1, loss=loss)
    assert job.rates() == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    assert job.machine.state.learning_rate() == 0.25


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_round_without_a_loss_moves_no_plateau(loss: float | None) -> None:
    job = training(SGD(Plateau(1.0, patience=0)))
    train(job, 1, loss=1.0)
    train(job, 5, loss=loss)
    assert job.machine.state.learning_rate() == 1.0
    train(job, 1, loss=1.0)
    assert job.machine.state.learning_rate() == pytest.approx(0.1)


def test_plateau_hears_the_mean_by_weight_and_in_async_every_push() -> None:
    job = Job(optimizer=SGD(Plateau(1.0, patience=0))).ready()
    job.join("w0", "w1")
    for losses in ((2.0, 4.0), (4.0, 1.0)):  # means 3.5 and 1.75 by weights 1 and 3
        job.push("w0", loss=losses[0])
        job.push("w1", loss=losses[1], weight=3.0)
    assert [record.loss for record in job.rounds()] == [3.5, 1.75]
    assert job.machine.state.learning_rate() == 1.0
    single = training(SGD(Plateau(1.0, factor=0.5, patience=1)), consistency=Async())
    for loss in (1.0, 1.0, 1.0):
        train(single, 1, loss=loss)
    assert single.machine.state.learning_rate() == 0.5


def test_plateau_in_a_sequence_begins_with_its_part_and_a_new_one_afresh() -> None:
    job = training(SGD(Sequence([(2, 0.1), (1, Plateau(1.0, patience=0))])))
    for loss in (1.0, 9.0, 1.0, 1.0):
        train(job, 1, loss=loss)
    assert job.rates() == [0.1, 0.1, 1.0, 1.0]
    assert job.machine.state.learning_rate() == pytest.approx(0.1)
    job.update("a", lr=Plateau(2.0, patience=0))
    train(job, 1, loss=5.0)
    assert job.rates()[-1] == 2.0
    assert job.machine.state.learning_rate() == 2.0


def test_a_change_of_something_else_leaves_the_plateau_where_it_is() -> None:
    job = training(SGDM(Plateau(1.0, patience=0)))
    train(job, 2, loss=1.0)
    job.update("a", momentum=0.5)
    train(job, 1)
    assert job.rates()[-1] == pytest.approx(0.1)
