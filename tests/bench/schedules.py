"""What one evaluation of each schedule costs, beside the same formula written down as a plain function."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

from optimd_server.schedules import rate_of
from optimdpb.specs import (
    SGDR,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    Sequence,
    Step,
    Table,
    Warmup,
    WarmupStableDecay,
)

from tests.bench.pairs import Figure, alternate

CALLS = 50_000
PAIRS = 7
PIECES = 1000
Formula = Callable[[int], float]


def linear(t: int) -> float:
    return 0.1 + (0.01 - 0.1) * min(t, 40_000) / 40_000


def sgdr(t: int) -> float:
    run, period = t, 100
    while run >= period:
        run, period = run - period, period * 2
    return 0.01 + 0.5 * (0.1 - 0.01) * (1 + math.cos(math.pi * run / period))


def triangles(t: int) -> float:
    cycle = math.floor(1 + t / 2000)
    return 0.01 + (0.1 - 0.01) * max(0.0, 1 - abs(t / 1000 - 2 * cycle + 1))


def one_cycle(t: int) -> float:
    peak, end = 0.3 * 40_000 - 1, 40_000 - 1
    if t <= peak:
        return 0.1 + (0.004 - 0.1) / 2 * (math.cos(math.pi * (1 + t / peak)) + 1)
    share = min((t - peak) / (end - peak), 1.0)
    return 4e-7 + (0.1 - 4e-7) / 2 * (math.cos(math.pi * share) + 1)


def wsd(t: int) -> float:
    if t < 1000:
        return 0.1 * (t + 1) / 1000
    return 0.1 if t < 30_000 else 0.1 + (0.0 - 0.1) * min(t - 30_000, 10_000) / 10_000


def table(t: int) -> float:
    return 0.1 if t <= 0 else 0.0 if t >= 40_000 else 0.1 + (0.0 - 0.1) * (t - 0) / (40_000 - 0)


def staircase(t: int) -> float:
    return 0.1 if t < 20_000 else 0.01


CASES: dict[str, tuple[Schedule, Formula]] = {
    "constant": (Constant(0.1), lambda t: 0.1),
    "linear": (Linear(0.1, 0.01, 40_000), linear),
    "polynomial": (Polynomial(0.1, 0.01, 40_000, 2.0), lambda t: 0.01 + 0.09 * (1 - min(t, 40_000) / 40_000) ** 2.0),
    "step": (Step(0.1, 1000, 0.9), lambda t: 0.1 * 0.9 ** (t // 1000)),
    "multi_step": (MultiStep(0.1, [5, 20_000], 0.5), lambda t: 0.1 * 0.5 ** bisect.bisect_right((5, 20_000), t)),
    "exponential": (Exponential(0.1, 0.9999), lambda t: 0.1 * 0.9999**t),
    "inverse_sqrt": (InverseSqrt(0.1, 1000), lambda t: 0.1 * min((t + 1) / 1000, math.sqrt(1000 / (t + 1)))),
    "cosine": (Cosine(0.1, 0.0, 40_000), lambda t: 0.05 * (1 + math.cos(math.pi * min(t, 40_000) / 40_000))),
    "sgdr": (SGDR(0.1, 0.01, 100, 2), sgdr),
    "cyclical": (Cyclical(0.01, 0.1, 1000), triangles),
    "one_cycle": (OneCycle(0.1, 40_000), one_cycle),
    "warmup_stable_decay": (WarmupStableDecay(0.1, 1000, 29_000, 10_000), wsd),
    "warmup": (Warmup(Linear(0.1, 0.01, 40_000), 1000), lambda t: linear(t) * min(1.0, (t + 1) / 1000)),
    "sequence": (Sequence([(20_000, 0.1), (1, 0.01)]), staircase),
    "table": (Table([(0, 0.1), (40_000, 0.0)]), table),
    "plateau": (Plateau(0.1), lambda t: 0.1),
}
# Each beside the same with one piece.
MANY: dict[str, tuple[Schedule, Schedule]] = {
    "sequence": (
        Sequence([(CALLS, Linear(0.1, 0.01, CALLS))]),
        Sequence([(CALLS // PIECES, Linear(0.1, 0.01, CALLS)) for _ in range(PIECES)]),
    ),
    "table": (
        Table([(0, 0.1), (CALLS, 0.0)]),
        Table([(place * CALLS // PIECES, 0.1 + place / PIECES) for place in range(PIECES)]),
    ),
    "table of stairs": (
        Table([(0, 0.1)], "constant"),
        Table([(place * CALLS // PIECES, 0.1 + place / PIECES) for place in range(PIECES)], "constant"),
    ),
}


def evaluations(rate: Formula) -> Callable[[], None]:
    """CALLS evaluations, one at each step."""

    def run() -> None:
        for t in range(CALLS):
            rate(t)

    return run


def run() -> dict[str, list[Figure]]:
    """Every schedule beside its formula, and many pieces beside one."""
    results = {}
    for name, (schedule, formula) in CASES.items():
        rivals = {"formula": evaluations(formula), "rate_of": evaluations(rate_of(schedule))}
        results[f"{name}, {CALLS} evaluations"] = alternate(rivals, PAIRS)
    for name, (one, many) in MANY.items():
        rivals = {"one piece": evaluations(rate_of(one)), f"{PIECES} pieces": evaluations(rate_of(many))}
        results[f"{name} in many pieces, {CALLS} evaluations"] = alternate(rivals, PAIRS)
    return results
