"""The lecture, line by line: its formulas in plain float64 Python against a running server, and its table for Adam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import optimd
import pytest
from numpy.typing import NDArray

from tests.support.servers import ServerProcess

STEPS = 1000
START = [1.5, -0.25, 3.0, 0.01]
LR, B1, B2 = 0.01, 0.9, 0.999
Gradients = list[list[float]]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


def trajectory(
    server: ServerProcess, job: str, optimizer: optimd.Worker | object, start: list[float], gradients: Gradients
) -> NDArray[np.float64]:
    """Parameters before every update and after the last, as a worker of the server gets them."""
    with optimd.connect(server.address, job=job, worker="w0") as worker:
        worker.ensure_job({"w": np.array(start, np.float32)}, optimizer, optimd.Sync(1))  # type: ignore[arg-type]
        seen = [worker.pull()["w"]]
        for gradient in gradients:
            seen.append(worker.step({"w": np.array(gradient, np.float32)}).parameters["w"])
    return np.array(seen, np.float64)


def sgd(w: float, gradients: list[float]) -> float:
    for g in gradients:
        w = w - LR * g
    return w


def sgdm(w: float, gradients: list[float]) -> float:
    m = 0.0
    for g in gradients:
        m = B1 * m + (1 - B1) * g
        w = w - LR * m
    return w


def adagrad(w: float, gradients: list[float]) -> float:
    total = 0.0
    for g in gradients:
        total = total + g * g
        w = w - LR / math.sqrt(total) * g
    return w


def rmsprop(w: float, gradients: list[float]) -> float:
    alpha = 0.99
    v = gradients[0] ** 2
    w = w - LR / math.sqrt(v) * gradients[0]
    for g in gradients[1:]:
        v = alpha * v + (1 - alpha) * g * g
        w = w - LR / math.sqrt(v) * g
    return w


def adam(w: float, gradients: list[float]) -> float:
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        w = w - LR / math.sqrt(v / (1 - B2**t) + 1e-8) * (m / (1 - B1**t))
    return w


def amsgrad(w: float, gradients: list[float]) -> float:
    m = v = v_max = 0.0
    for g in gradients:
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        v_max = max(v_max, v)
        w = w - LR / math.sqrt(v_max + 1e-8) * m
    return w


FORMULAS = {
    "sgd": (sgd, optimd.SGD(LR)),
    "sgdm": (sgdm, optimd.SGDM(LR, momentum=B1, form="ema")),
    "adagrad": (adagrad, optimd.Adagrad(LR, eps=0.0)),
    "rmsprop": (rmsprop, optimd.RMSProp(LR, alpha=0.99, eps=0.0, v_init="first")),
    "adam": (adam, optimd.Adam(LR, beta1=B1, beta2=B2, eps=0.0, eps_root=1e-8)),
    "amsgrad": (amsgrad, optimd.AMSGrad(LR, beta1=B1, beta2=B2, eps=0.0, eps_root=1e-8, debias=False)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_thousand_steps_of_each_formula(server: ServerProcess, name: str) -> None:
    formula: Callable[[float, list[float]], float]
    formula, optimizer = FORMULAS[name]
    gradients = np.random.default_rng(3).standard_normal((STEPS, 4)) * [1.0, 0.01, 30.0, 1.0] + [0.1, 0.0, 5.0, -0.5]
    gradients = gradients.astype(np.float32).astype(np.float64)
    end = trajectory(server, f"lecture-{name}", optimizer, START, gradients.tolist())[-1]
    expected = [formula(w, gradients[:, i].tolist()) for i, w in enumerate(np.float32(START).tolist())]
    travelled = np.abs(np.array(expected) - START)
    assert np.all(np.abs(end - expected) < 1e-4 * travelled + 1e-6 * np.abs(expected)), (end, expected)


# The lecture's table: 10,000 ones, then these.
TAIL = [1.0, 1.0, 1.0, 100_000.0, 1.0]
ONES = 10_000
TABLE_LR = 1e-3


def test_the_table_for_adam(server: ServerProcess) -> None:
    """Moves of lr, ..., 10 sqrt(10) lr, 10^-3.5 lr for beta1 = 0, beta2 = 0.999."""
    adam_without_momentum = optimd.Adam(TABLE_LR, beta1=0.0, beta2=B2, eps=0.0)
    # So that the parameter is near 0 where the small moves are: float32 shows them there.
    start = [TABLE_LR * (ONES + 3 + 10 * math.sqrt(10))]
    seen = trajectory(server, "table-adam", adam_without_momentum, start, [[1.0]] * ONES + [[g] for g in TAIL])
    moves = -np.diff(seen[:, 0])
    expected = [TABLE_LR] * 3 + [10 * math.sqrt(10) * TABLE_LR, 10**-3.5 * TABLE_LR]
    assert moves[-5:] == pytest.approx(expected, rel=1e-3)
    assert moves[:ONES] == pytest.approx(TABLE_LR, rel=1e-3)
    assert moves.max() <= math.sqrt(1 / (1 - B2)) * TABLE_LR, "the bound on a single move"


def test_the_bound_on_a_single_move_is_reached_and_never_passed(server: ServerProcess) -> None:
    """sqrt(1 / (1 - beta2)) lr, by the first gradient after a long silence; heavy tails come no further."""
    rng = np.random.default_rng(4)
    silence = [
        [0.0, float(g)] for g in (rng.standard_cauchy(2500) * 10.0 ** rng.integers(-8, 8, 2500)).clip(-1e15, 1e15)
    ]
    optimizer = optimd.Adam(TABLE_LR, beta1=0.0, beta2=B2, eps=0.0)
    seen = trajectory(server, "bound", optimizer, [0.0, 0.0], [*silence, [1e-3, 1.0]])
    moves = np.abs(np.diff(seen, axis=0))
    bound = math.sqrt(1 / (1 - B2)) * TABLE_LR
    assert moves.max() <= bound * (1 + 1e-6)
    reached = math.sqrt((1 - B2 ** len(moves)) / (1 - B2)) * TABLE_LR
    assert moves[-1, 0] == pytest.approx(reached, rel=1e-4)
    assert reached > 0.95 * bound


def test_adam_forgets_in_a_thousand_steps_what_amsgrad_keeps(server: ServerProcess) -> None:
    """After one gradient of 100, its share in v falls by 1/e in about 1,000 steps; AMSGrad's maximum stays."""
    before, after = 100, 4600
    gradients = [[1.0]] * before + [[100.0]] + [[1.0]] * after
    adam_moves, amsgrad_moves = (
        -np.diff(trajectory(server, f"memory-{type(rule).__name__}", rule, [0.0], gradients)[:, 0])
        for rule in (
            optimd.Adam(1.0, beta1=0.0, beta2=B2, eps=0.0),
            optimd.AMSGrad(1.0, beta1=0.0, beta2=B2, eps=0.0, debias=False),
        )
    )
    # A move is lr g / sqrt(v / (1 - b2^k)); ones alone would make v = 1 - b2^k.
    corrections = 1 - B2 ** np.arange(1, len(gradients) + 1)
    share = (corrections / adam_moves**2 - corrections)[before + 1 :]
    memory = next(n for n in range(after) if share[n] < share[0] / math.e)
    assert memory == pytest.approx(1000, rel=0.05)
    assert adam_moves[-1] == pytest.approx(1.0, rel=0.06)
    assert amsgrad_moves[-1] == pytest.approx(amsgrad_moves[before + 1], rel=1e-3)
    assert amsgrad_moves[-1] < 0.35


def theory_of_swats(lr: float, first: float, tolerance: float) -> tuple[int, float]:
    """With beta1 = 0, a first gradient `first` and then ones, Adam's k-th move is lr g_k / sqrt(v_k / (1 - b2^k)).

    So gamma_k = lr / sqrt(v_k / (1 - b2^k)), in closed form; the switch comes where it meets its own mean.
    Returns the number of Adam's updates and the rate learned.
    """
    b2 = B2
    mean = 0.0
    for k in range(1, 100_000):
        v_hat = ((1 - b2) * b2 ** (k - 1) * first**2 + (1 - b2 ** (k - 1))) / (1 - b2**k)
        gamma = lr / math.sqrt(v_hat)
        mean = b2 * mean + (1 - b2) * gamma
        rate = mean / (1 - b2**k)
        if k > 1 and abs(rate - gamma) < tolerance:
            return k, rate
    raise AssertionError("no switch")


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_swats_switches_where_theory_says(shards: int) -> None:
    lr, first, tolerance, elements = 0.01, 3.0, 2e-4, 3 * 4096
    switch, rate = theory_of_swats(lr, first, tolerance)
    assert 100 < switch < 1000, "neither at once nor never"
    optimizer = optimd.SWATS(lr, beta1=0.0, beta2=B2, eps=0.0, switch_tolerance=tolerance)
    arguments = ("--shards", str(shards))
    with ServerProcess(*arguments) as server, optimd.connect(server.address, job="j", worker="w") as worker:
        worker.ensure_job({"w": np.zeros(elements, np.float32)}, optimizer, optimd.Sync(1))
        worker.pull()
        ones = np.ones(elements, np.float32)
        seen = [0.0]
        for k in range(switch + 5):
            w = worker.step({"w": ones * np.float32(first if k == 0 else 1.0)}).parameters["w"]
            assert np.all(w == w[0])
            seen.append(float(w[0]))
    moves = -np.diff(seen)
    v_hat = ((1 - B2) * B2 ** (switch - 1) * first**2 + (1 - B2 ** (switch - 1))) / (1 - B2**switch)
    assert moves[switch - 1] == pytest.approx(lr / math.sqrt(v_hat), rel=1e-4), "Adam's last move"
    assert moves[switch:] == pytest.approx(rate, rel=1e-4), "SGD at the rate learned, from the next update on"
    assert rate != pytest.approx(lr / math.sqrt(v_hat), rel=1e-2), "the two can be told apart"
