"""From a seed to a training run: which job, which workers, how the machine is set up."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from optimd_server.runtime import ServerConfig
from optimdpb.specs import (
    SGD,
    SGDM,
    Adam,
    Async,
    ClipGlobalNorm,
    Consistency,
    Cosine,
    JobSpec,
    Layout,
    Linear,
    Optimizer,
    Ssp,
    Sync,
    Tensor,
)

ROUNDS = 100
LEASE_S = 2.0
TICK_S = 0.25
WAIT_S = 1.5
PUSH_TIMEOUT_S = 6.0
# Faults stop here at the latest.
FAULTS_S_MAX = 60.0
LAYOUT = Layout((Tensor("w", (3,)), Tensor("b", (2,))))


@dataclass(frozen=True)
class Scenario:
    """One run. `bad`: chance of a gradient that is NaN, infinite or huge; `operated`: somebody changes the job.

    mischief_per_s: how often programs are interrupted or forget their workers, proxies break calls, saves are given up.
    bystander: there is a second job on the server, and saves take time. turnover_per_s: how often the job is deleted,
    made anew, made longer or shorter, or runs out of data.
    """

    seed: int
    spec: JobSpec
    config: ServerConfig
    workers: int
    bad: float
    compute_s: float
    faults_per_s: float
    operated: bool = False
    mischief_per_s: float = 0.0
    bystander: bool = False
    turnover_per_s: float = 0.0

    @property
    def name(self) -> str:
        """For people."""
        return f"seed {self.seed}: {self.spec.consistency}, {self.workers} workers, {self.config.shards} shards"


def scenario_of(seed: int) -> Scenario:
    """The same for the same seed."""
    dice = random.Random(seed)
    workers = dice.choice((1, 2, 3, 3, 4, 5))
    spec = JobSpec(
        LAYOUT,
        _optimizer(dice),
        _consistency(dice, workers),
        reduction="mean",
        clip=ClipGlobalNorm(0.5) if dice.random() < 0.3 else None,
        steps_max=ROUNDS,
        rejections_max=dice.choice((None, None, 2)),
    )
    needed = workers if isinstance(spec.consistency, Sync) else 1
    room = dice.choice((100, 100, needed + 1))
    config = ServerConfig(
        threads=1,
        shards=dice.choice((1, 1, 2)),
        lease_s=LEASE_S,
        tick_interval_s=TICK_S,
        wait_s_max=WAIT_S,
        push_timeout_s=PUSH_TIMEOUT_S,
        drain_s_max=1.0,
        chunk_bytes_max=LAYOUT.size_bytes,
        # Step, else Push and Pull.
        step_bytes_max=LAYOUT.size_bytes if dice.random() < 0.7 else 4,
        one_thread_bytes_max=0 if dice.random() < 0.5 else 1 << 16,
        staging_bytes_max=room * LAYOUT.size_bytes,
    )
    mischief = random.Random(f"mischief of {seed}")
    return Scenario(
        seed,
        spec,
        config,
        workers,
        bad=dice.choice((0.0, 0.0, 0.05, 0.2)),
        compute_s=dice.choice((0.02, 0.1)),
        faults_per_s=dice.choice((0.0, 0.5, 1.0, 2.0)),
        operated=dice.random() < 0.5,
        mischief_per_s=mischief.choice((0.0, 0.0, 1.0, 3.0)),
        bystander=mischief.random() < 0.3,
        turnover_per_s=random.Random(f"turnover of {seed}").choice((0.0, 0.0, 0.3)),
    )


def another_spec(spec: JobSpec, workers: int, dice: random.Random) -> JobSpec:
    """One for the same workers and the same memory, not the same."""
    while True:
        model = _consistency(dice, workers)
        clip = ClipGlobalNorm(0.5) if dice.random() < 0.3 else None
        if isinstance(model, Sync) == isinstance(spec.consistency, Sync):
            other = replace(spec, optimizer=_optimizer(dice), consistency=model, clip=clip)
            if other != spec:
                return other


def large_scenario(workers: int, shards: int, rounds: int) -> Scenario:
    """Many workers on many shards, with faults."""
    layout = Layout(tuple(Tensor(f"w{i}", (3,)) for i in range(shards)))
    config = ServerConfig(
        threads=1,
        shards=shards,
        lease_s=LEASE_S,
        tick_interval_s=TICK_S,
        wait_s_max=WAIT_S,
        chunk_bytes_max=layout.size_bytes,
        step_bytes_max=layout.size_bytes,
        one_thread_bytes_max=0,
    )
    model = Sync(workers, quorum=workers * 9 // 10, round_timeout_s=0.5)
    spec = JobSpec(layout, SGDM(Linear(0.1, 0.01, rounds)), model, steps_max=rounds)
    return Scenario(0, spec, config, workers, bad=0.001, compute_s=0.1, faults_per_s=1.0)


def _optimizer(dice: random.Random) -> Optimizer:
    schedule = dice.choice((Linear(0.1, 0.01, 80), Cosine(0.1, 0.01, 120)))
    return dice.choice((SGD(schedule), SGDM(schedule), Adam(schedule)))


def _consistency(dice: random.Random, workers: int) -> Consistency:
    kind = dice.randrange(8)
    least = dice.randint(1, workers)
    if kind == 0:
        return Sync(workers)
    if kind == 1:
        return Sync(workers, workers_min=least)
    if kind == 2:
        return Sync(workers, quorum=least)
    if kind == 3:
        return Sync(workers, quorum=least, workers_min=least, round_timeout_s=dice.choice((0.2, 1.0)))
    if kind == 4:
        return Async(staleness_max=dice.choice((None, 0, 3)), staleness_scale=dice.choice(("none", "inverse")))
    if kind == 5:
        return Async(staleness_max=4, delay_compensation=2.0, staleness_scale=dice.choice(("none", "inverse")))
    return Ssp(dice.choice((0, 0, 1, 3)))
