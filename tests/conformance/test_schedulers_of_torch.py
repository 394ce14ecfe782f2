"""Schedules against torch.optim.lr_scheduler, step by step, borders included."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optimd import connect
from optimd_server.schedules import PlateauState, momentum_of, rate_of
from optimdpb.specs import (
    SGDM,
    SGDR,
    Adam,
    Cosine,
    Cyclical,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Optimizer,
    Plateau,
    Polynomial,
    RMSProp,
    Schedule,
    Sequence,
    Step,
    Sync,
)

from tests.support.servers import ThreadServer

torch = pytest.importorskip("torch", reason="torch is not installed")
schedulers: Any = torch.optim.lr_scheduler

STEPS = 20_000
Make = Callable[[Any], Any]


def sgd(lr: float) -> Any:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)


def adam(lr: float) -> Any:
    return torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr)


def rates_of(make: Make, lr: float, steps: int) -> list[float]:
    """What torch gives each step. A recursion that it also has in closed form is asked for that: it does not drift."""
    optimizer = sgd(lr)
    scheduler = make(optimizer)
    closed = getattr(scheduler, "_get_closed_form_lr", None)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            rates.append(closed()[0] if closed else optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


CASES: dict[str, tuple[Schedule, float, int, Make]] = {
    "StepLR": (Step(0.1, 3000, 0.3), 0.1, STEPS, lambda o: schedulers.StepLR(o, 3000, 0.3)),
    "MultiStepLR": (
        MultiStep(0.1, [1, 100, 101, 9000], 0.5),
        0.1,
        STEPS,
        lambda o: schedulers.MultiStepLR(o, [1, 100, 101, 9000], 0.5),
    ),
    "ExponentialLR": (Exponential(0.1, 0.999), 0.1, STEPS, lambda o: schedulers.ExponentialLR(o, 0.999)),
    "PolynomialLR": (
        Polynomial(0.1, 0.0, 5000, 1.7),
        0.1,
        6000,
        lambda o: schedulers.PolynomialLR(o, 5000, 1.7),
    ),
    "LinearLR": (
        Linear(0.1 * 0.25, 0.1 * 0.75, 5000),
        0.1,
        6000,
        lambda o: schedulers.LinearLR(o, 0.25, 0.75, 5000),
    ),
    # torch goes up again behind the last step; a finite schedule here holds its last value.
    "CosineAnnealingLR": (Cosine(0.1, 1e-3, 5000), 0.1, 5001, lambda o: schedulers.CosineAnnealingLR(o, 5000, 1e-3)),
    "WarmRestarts": (
        SGDR(0.1, 1e-3, 777),
        0.1,
        STEPS,
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 777, 1, 1e-3),
    ),
    "WarmRestarts doubling": (
        SGDR(0.1, 1e-3, 10, 2),
        0.1,
        STEPS,
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10, 2, 1e-3),
    ),
    **{
        f"CyclicLR {policy}": (
            Cyclical(1e-3, 6e-3, 500, policy, gamma),
            1e-3,
            STEPS,
            lambda o, policy=policy, gamma=gamma: schedulers.CyclicLR(
                o, 1e-3, 6e-3, 500, mode=policy, gamma=gamma, cycle_momentum=False
            ),
        )
        for policy, gamma in (("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.9999))
    },
    "OneCycleLR": (OneCycle(0.5, 15_000), 0.1, 15_000, lambda o: schedulers.OneCycleLR(o, 0.5, 15_000)),
    "OneCycleLR odd": (
        OneCycle(0.5, 777, 0.123, 10.0, 7.0),
        0.1,
        777,
        lambda o: schedulers.OneCycleLR(o, 0.5, 777, pct_start=0.123, div_factor=10.0, final_div_factor=7.0),
    ),
    "SequentialLR": (
        Sequence([(100, Linear(0.01, 0.1, 100)), (200, Cosine(0.1, 0.0, 200)), (1, Exponential(0.1, 0.99))]),
        0.1,
        500,
        lambda o: schedulers.SequentialLR(
            o,
            [
                schedulers.LinearLR(o, 0.1, 1.0, 100),
                schedulers.CosineAnnealingLR(o, 200),
                schedulers.ExponentialLR(o, 0.99),
            ],
            [100, 300],
        ),
    ),
}


@pytest.mark.parametrize(("schedule", "lr", "steps", "make"), CASES.values(), ids=CASES)
def test_every_step_is_that_of_torch(schedule: Schedule, lr: float, steps: int, make: Make) -> None:
    rate = rate_of(schedule)
    for t, expected in enumerate(rates_of(make, lr, steps)):
        assert rate(t) == pytest.approx(expected, rel=1e-9, abs=1e-15), t


@pytest.mark.parametrize(("steps", "rise"), [(1000, 0.3), (777, 0.123)])
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_the_momentum_of_one_cycle_is_that_of_torch(rule: str, steps: int, rise: float) -> None:
    optimizer = {"SGD": sgd, "Adam": adam}[rule](0.1)
    scheduler = schedulers.OneCycleLR(optimizer, 0.5, steps, pct_start=rise)
    momentum = momentum_of(OneCycle(0.5, steps, rise))
    assert momentum is not None
    for t in range(steps):
        group = optimizer.param_groups[0]
        expected = group["momentum"] if rule == "SGD" else group["betas"][0]
        assert momentum(t) == pytest.approx(expected, rel=1e-9), t
        optimizer.step()
        if t + 1 < steps:
            scheduler.step()


LOSSES = [1.0 / (1 + 0.1 * min(t, 60)) + 0.003 * (t * 7919 % 11) for t in range(400)]


@pytest.mark.parametrize(
    "fields",
    [
        {"factor": 0.1, "patience": 10},
        {"factor": 0.5, "patience": 3, "cooldown": 5},
        {"factor": 0.3, "patience": 0, "lr_min": 0.01},
        {"factor": 0.7, "patience": 5, "threshold": 0.05},
    ],
    ids=str,
)
def test_plateau_is_that_of_torch(fields: dict[str, Any]) -> None:
    spec = Plateau(0.5, **fields)
    optimizer = sgd(0.5)
    scheduler = schedulers.ReduceLROnPlateau(
        optimizer,
        factor=spec.factor,
        patience=spec.patience,
        threshold=spec.threshold,
        cooldown=spec.cooldown,
        min_lr=spec.lr_min,
        eps=0.0,
    )
    state = PlateauState.first(spec)
    for loss in LOSSES:
        scheduler.step(loss)
        state = state.after(spec, loss)
        assert state.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert state.lr < 0.5


RULES: dict[str, tuple[Optimizer, Make]] = {
    "SGD, OneCycleLR": (
        SGDM(OneCycle(0.2, 100)),
        lambda w: schedulers.OneCycleLR(torch.optim.SGD([w], lr=0.1, momentum=0.9), 0.2, 100),
    ),
    "Nesterov, OneCycleLR": (
        SGDM(OneCycle(0.2, 100), nesterov=True),
        lambda w: schedulers.OneCycleLR(torch.optim.SGD([w], lr=0.1, momentum=0.9, nesterov=True), 0.2, 100),
    ),
    "Adam, OneCycleLR": (
        Adam(OneCycle(0.05, 100)),
        lambda w: schedulers.OneCycleLR(torch.optim.Adam([w], lr=0.1), 0.05, 100),
    ),
    "RMSprop, OneCycleLR": (
        RMSProp(OneCycle(0.01, 100), momentum=0.9),
        lambda w: schedulers.OneCycleLR(torch.optim.RMSprop([w], lr=0.1, momentum=0.9), 0.01, 100),
    ),
    "SGD, warm restarts": (
        SGDM(SGDR(0.1, 1e-3, 7, 2)),
        lambda w: schedulers.CosineAnnealingWarmRestarts(torch.optim.SGD([w], lr=0.1, momentum=0.9), 7, 2, 1e-3),
    ),
}


@pytest.mark.parametrize(("rule", "make"), RULES.values(), ids=RULES)
def test_training_on_a_server_is_training_under_torch(rule: Optimizer, make: Make) -> None:
    """Rate and momentum reach the update as they do there: 99 steps down the same bowl, from the same start."""
    target = torch.linspace(-1, 1, 50)
    w = torch.zeros(50, requires_grad=True)
    scheduler = make(w)
    with ThreadServer() as server, connect(server.address, job="j", worker="w0") as worker:
        worker.ensure_job({"w": np.zeros(50, np.float32)}, rule, Sync(workers=1))
        parameters = worker.pull()["w"]
        for _ in range(99):
            parameters = worker.step({"w": parameters - target.numpy()}).parameters["w"]
            w.grad = w.detach() - target
            scheduler.optimizer.step()
            scheduler.step()
            assert parameters == pytest.approx(w.detach().numpy(), rel=2e-4, abs=2e-6)
