"""Figures from reports about other optimizers and schedulers, trained on a server, with restarts where they matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimd_server.schedules import value_at
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import JobSpec, Layout, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, refusal
from tests.support.servers import ThreadServer

MINUTE = {"lease_s": 60.0, "threads": 1}


class Training:
    """One worker of a job on servers that come and go; `rates` and `values` of its first element so far."""

    def __init__(self, folder: Path, rule: Any, start: float = 1.0, **options: Any) -> None:
        self._config = ServerConfig(**MINUTE, data_dir=folder)
        self._start = {"w": np.full(2, start, np.float32)}
        self._rule, self._options = rule, options
        self.rates: list[float] = []
        self.values: list[float] = []
        self.results: list[optimd.StepResult] = []

    def steps(self, gradients: Iterable[float], losses: Sequence[float | None] = (), at_start: Any = None) -> None:
        """These steps on a server of their own, which then ends. at_start(worker) is called before the first."""
        with (
            ThreadServer(self._config) as server,
            optimd.connect(server.address, job="j", worker="w") as worker,
        ):
            worker.ensure_job(self._start, self._rule, optimd.Sync(1), **self._options)
            worker.pull()
            if at_start is not None:
                at_start(worker)
            for step, gradient in enumerate(gradients):
                loss = losses[step] if losses else None
                result = worker.step({"w": np.full(2, gradient, np.float32)}, loss=loss)
                self.results.append(result)
                self.rates.append(result.learning_rate)
                self.values.append(float(result.parameters["w"][0]))


def test_a_round_of_nothing_but_nan_moves_nothing_but_the_count_of_void_rounds() -> None:
    rng = np.random.default_rng(7)
    good = [list(pair) for pair in rng.standard_normal((8, 2, 4)).astype(np.float32)]
    bad = [np.full(4, np.nan, np.float32)] * 2
    with ThreadServer(ServerConfig(**MINUTE)) as server:
        expected, rates, _ = _two_workers(server, "without", good)
        found, rates_with, status = _two_workers(server, "with", [*good[:3], bad, bad, bad, *good[3:]])
    assert found == expected
    assert [status.global_step, status.rounds_void, status.rejected] == [8, 3, 6]
    assert rates == [value_at(LINEAR, step) for step in range(8)]
    assert rates_with == [*rates[:3], *rates[3:4] * 3, *rates[3:]]


LINEAR = optimd.Linear(0.1, 0.0, 100)


def _two_workers(server: ThreadServer, job: str, pairs: list[Any]) -> tuple[bytes, list[float], optimd.JobStatus]:
    """Parameters at the end, the rate that each push of the first was told, and the status."""

    def work(place: int) -> tuple[bytes, list[float], optimd.JobStatus]:
        rates = []
        with optimd.connect(server.address, job=job, worker=f"w{place}") as worker:
            worker.ensure_job({"w": np.ones(4, np.float32)}, optimd.Adam(LINEAR), optimd.Sync(2))
            worker.pull()
            for pair in pairs:
                result = worker.step({"w": pair[place]})
                is_bad = bool(np.isnan(pair[place]).any())
                assert (result.status, result.reason) == (("rejected", "non_finite") if is_bad else ("applied", None))
                rates.append(result.learning_rate)
            return worker.pull()["w"].tobytes(), rates, worker.status()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))
    assert first[:2] == second[:2]
    return first


PLATEAU = optimd.Plateau(0.1, factor=0.1, patience=2)
COOLED = optimd.Plateau(0.1, factor=0.1, patience=2, cooldown=1)


@pytest.mark.parametrize(
    ("plateau", "expected"),
    [
        (PLATEAU, [0.1] * 4 + [0.01] * 3 + [0.001] * 3 + [1e-4]),
        (COOLED, [0.1] * 4 + [0.01] * 4 + [0.001] * 3),
    ],
    ids=["patience", "cooldown"],
)
def test_plateau_step_by_step(tmp_path: Path, plateau: optimd.Plateau, expected: list[float]) -> None:
    """A loss of 0 each round; a restart after each third changes nothing."""
    training = Training(tmp_path, optimd.SGD(plateau))
    for count in (3, 3, 3, 2):
        training.steps([0.0] * count, [0.0] * count)
    assert training.rates == pytest.approx(expected, rel=1e-12)


def test_a_loss_of_nan_is_no_round_without_improvement(tmp_path: Path) -> None:
    training = Training(tmp_path, optimd.SGD(PLATEAU))
    losses = [loss for _ in range(5) for loss in (0.0, float("nan"), None)]
    training.steps([0.0] * len(losses), losses)
    assert training.rates == pytest.approx([0.1] * 10 + [0.01] * 5, rel=1e-12)


def test_warm_restarts(tmp_path: Path) -> None:
    schedule = optimd.SGDR(0.5, 0.0, period=1, period_mult=2)
    training = Training(tmp_path, optimd.SGD(schedule))
    for count in (5, 1, 2):  # the server ends inside the third run
        training.steps([0.0] * count)
    assert training.rates == pytest.approx([0.5, 0.5, 0.25, 0.5, 0.426777, 0.25, 0.073223, 0.5], abs=5e-7)
    for run in range(2, 51):
        assert value_at(schedule, 2**run - 1) == 0.5
        assert 0.0 < value_at(schedule, 2**run - 2) < 0.5


BORDER = optimd.Sequence([(3, optimd.Constant(0.1)), (1, optimd.Exponential(0.9, 0.9))])
WARM = optimd.Warmup(optimd.Cosine(0.1, 0.0, 6), 3)


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("schedule", [BORDER, WARM], ids=["sequence", "warmup over cosine"])
def test_resumed_at_a_border(tmp_path: Path, schedule: optimd.Sequence | optimd.Warmup, stop: int) -> None:
    training = Training(tmp_path, optimd.SGD(schedule))
    training.steps([0.0] * stop)
    training.steps([0.0] * (6 - stop))
    assert training.rates == [value_at(schedule, step) for step in range(6)]
    if schedule is BORDER:
        assert training.rates[:5] == pytest.approx([0.1, 0.1, 0.1, 0.9, 0.81], rel=1e-12)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resumed_with_a_change_to_come(tmp_path: Path, stop: int) -> None:
    training = Training(tmp_path, optimd.SGD(0.5))
    training.steps([0.0] * stop, at_start=lambda worker: worker.set_schedules({"lr": BORDER}, at_step=3))
    training.steps([0.0] * (6 - stop))
    assert training.rates == [0.5] * 3 + [value_at(BORDER, step) for step in (3, 4, 5)]


def test_swats_with_gradients_of_zero_and_rates_of_zero() -> None:
    """f(w) = w^2 / 2 in one dimension: it switches, gamma > 0, and no rate of 0 is divided by."""
    lr = optimd.Linear(0.0, 0.1, 10)
    with ThreadServer(ServerConfig(**MINUTE)) as server, optimd.connect(server.address, job="j", worker="w") as worker:
        rule = optimd.SWATS(lr, beta1=0.0, switch_tolerance=0.5)
        worker.ensure_job({"w": np.zeros(1, np.float32)}, rule, optimd.Sync(1))
        worker.pull()
        for _ in range(10):
            assert worker.step({"w": np.zeros(1, np.float32)}).parameters["w"][0] == 0.0
        memory = server.host("j").machine.state.memories
        assert not any(number for row in memory for number in row)

    with ThreadServer(ServerConfig(**MINUTE)) as server, optimd.connect(server.address, job="j", worker="w") as worker:
        # The rate is 0 before the first step that moves, and again behind its last.
        lr = optimd.Sequence([(2, optimd.Constant(0.0)), (3, optimd.Constant(0.05)), (1, optimd.Constant(0.0))])
        rule = optimd.SWATS(lr, switch_tolerance=10.0)
        worker.ensure_job({"w": np.ones(1, np.float32)}, rule, optimd.Sync(1))
        w = worker.pull()["w"]
        values, switched = [float(w[0])], []
        for _ in range(8):
            w = worker.step({"w": w}).parameters["w"]
            values.append(float(w[0]))
            switched.append(server.on_loop(lambda: server.host("j").machine.state.memories[0]))
        assert values[:3] == [1.0, 1.0, 1.0], "a rate of 0 moves nothing"
        assert switched[1][0] == 0.0, "and switches nothing"
        first = next(place for place, memory in enumerate(switched) if memory[0])
        assert switched[first][2] > 0.0
        assert switched[first][4] == 0.05, "the rate at the switch, which is divided by"
        lambda_, beta1, moment = switched[first][2], rule.beta1, 0.0
        expected = values[first + 1]
        for step in range(first + 1, 5):
            moment = beta1 * moment + expected
            expected -= (1.0 - beta1) * lambda_ * moment
            assert values[step + 1] == pytest.approx(expected, rel=1e-6)
        assert values[6:] == [values[5]] * len(values[6:]), "behind the end of the schedule"
        assert np.isfinite(values).all()


def refusal_of(client: RawClient, shapes: list[list[int]]) -> tuple[str, dict[str, str]]:
    """Of a job with tensors of these shapes."""
    spec = job_spec_to_proto(JobSpec(Layout((Tensor("w", (1,)),)), optimd.SGD(0.1), optimd.Sync(1)))
    del spec.layout.tensors[:]
    for place, shape in enumerate(shapes):
        spec.layout.tensors.add(name=f"w{place}", shape=shape)
    return refusal(lambda: client.call("CreateJob", pb.CreateJobRequest(job="j", spec=spec, worker="w")))


@pytest.mark.parametrize(
    ("shapes", "elements"),
    [
        ([[2**31]], 2**31),
        ([[2**32 + 3]], 2**32 + 3),
        ([[2**26, 2**26]], 2**52),
    ],
    ids=str,
)
def test_sizes_beyond_32_bits_are_refused_with_their_exact_number(shapes: list[list[int]], elements: int) -> None:
    limit = 1 << 30
    with (
        ThreadServer(ServerConfig(**MINUTE, parameters_bytes_max=limit)) as server,
        RawClient(server.address) as client,
    ):
        reason, metadata = refusal_of(client, shapes)
        assert (reason, metadata["limit"]) == ("LIMIT_EXCEEDED", "parameters_bytes_max")
        assert metadata["value"] == str(4 * elements)
        assert not server.runtime.jobs


@pytest.mark.parametrize("shapes", [[[2**26, 2**26, 2**26]], [[2**53]] * 20_000], ids=["one", "20,000"])
def test_sizes_beyond_53_bits_are_no_layout(shapes: list[list[int]]) -> None:
    with ThreadServer(ServerConfig(**MINUTE)) as server, RawClient(server.address) as client:
        assert refusal_of(client, shapes)[0] in ("INVALID_LAYOUT", "LIMIT_EXCEEDED")
        assert not server.runtime.jobs


def _overflows(folder: Path) -> None:
    """A job that is saved at step 1 and whose parameters then leave float32; the server cannot save it at its end."""
    large = {"w": np.full(2, 1e17, np.float32)}
    with (
        ThreadServer(ServerConfig(**MINUTE, data_dir=folder)) as server,
        optimd.connect(server.address, job="j", worker="w") as worker,
    ):
        worker.ensure_job({"w": np.zeros(2, np.float32)}, optimd.SGDM(1e20, momentum=0.9), optimd.Sync(1))
        worker.pull()
        worker.step({"w": np.full(2, 1e3, np.float32)})
        assert worker.snapshot().endswith("step-1")
        worker.step(large)
        for call in (lambda: [worker.step(large) for _ in range(30)], worker.snapshot, worker.pull):
            with pytest.raises(optimd.Refused, match="left a parameter infinite or NaN") as refused:
                call()
            assert refused.value.reason == "JOB_FAILED"


def test_an_update_that_overflows_fails_the_job_and_its_snapshot_is_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(optimd.Refused, match="left a parameter infinite or NaN") as refused:
        _overflows(tmp_path)
    assert refused.value.reason == "STORAGE_FAILED"
    with (
        ThreadServer(ServerConfig(**MINUTE, data_dir=tmp_path)) as server,
        optimd.connect(server.address, job="j", observer=True) as observer,
    ):
        assert np.isfinite(observer.pull()["w"]).all()
        assert observer.status().global_step == 1


def test_a_rate_that_float32_cannot_hold_moves_nothing_to_nan() -> None:
    with ThreadServer(ServerConfig(**MINUTE)) as server, optimd.connect(server.address, job="j", worker="w") as worker:
        try:
            worker.ensure_job({"w": np.ones(2, np.float32)}, optimd.SGD(1e39), optimd.Sync(1))
            worker.pull()
            result = worker.step({"w": np.zeros(2, np.float32)})
        except optimd.InvalidSpec:
            return
        assert (result.status, result.reason) == ("discarded", "round_void")
        assert result.parameters["w"].tolist() == [1.0, 1.0]


def test_one_step_of_1e40_fails_the_job() -> None:
    with ThreadServer(ServerConfig(**MINUTE)) as server, optimd.connect(server.address, job="j", worker="w") as worker:
        worker.ensure_job({"w": np.ones(2, np.float32)}, optimd.SGD(1e25), optimd.Sync(1))
        worker.pull()
        with pytest.raises(optimd.Refused) as refused:
            worker.step({"w": np.full(2, 1e15, np.float32)})
        assert refused.value.reason == "JOB_FAILED"


DECAYED = optimd.Group("w", lr_multiplier=2.0, weight_decay=0.5)
FOLLOWED = {"weight_decay": optimd.Linear(0.0, 0.9, 1)}


@pytest.mark.parametrize(
    ("rule", "groups", "expected"),
    [
        (optimd.SGDW(0.1, weight_decay=0.5), [], [0.95, 0.9025]),
        (optimd.AdamW(0.1, weight_decay=0.5), [], [0.95, 0.9025]),
        (optimd.Adam(0.1, weight_decay=0.5), [], [0.9, 0.8]),
        (optimd.SGDW(0.1), [DECAYED], [0.9, 0.81]),
        (optimd.AdamW(0.1), [DECAYED], [0.9, 0.81]),
        (optimd.AdamW(0.1, weight_decay=0.5), [optimd.Group("w", lr_multiplier=0.0)], [1.0, 1.0]),
        (optimd.AdamW(0.1, schedules=FOLLOWED), [optimd.Group("w", weight_decay=0.5)], [0.95, 0.9025]),
        (optimd.AdamW(0.1, schedules=FOLLOWED), [], [1.0, 0.91]),
    ],
    ids=["SGDW", "AdamW", "Adam", "SGDW group", "AdamW group", "multiplier 0", "group under a schedule", "schedule"],
)
def test_decay_is_applied_once_with_the_right_rate(
    tmp_path: Path, rule: Any, groups: list[optimd.Group], expected: list[float]
) -> None:
    training = Training(tmp_path, rule, groups=groups)
    training.steps([0.0, 0.0])
    assert training.values == pytest.approx(expected, rel=2e-3 if isinstance(rule, optimd.Adam) else 1e-6)
