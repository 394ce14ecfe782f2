"""From a schedule to the function of the global step that it is. Any step, in any order; the same answer each time.

Periods and borders are found in integers, never by logarithms, so they are exact up to 2^53. What does not depend on
the step is worked out once; finding the piece of a sequence or table takes the logarithm of their number.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from optimdpb import specs
from optimdpb.errors import NotServed
from optimdpb.specs import Plateau, Schedule, Warmup
from optimdpb.specs.compound import one_cycles
from optimdpb.specs.schedules import as_schedule

# The value that the update from `step` to `step + 1` uses, step >= 0; float64.
RateOf = Callable[[int], float]
# The momentum that a schedule asks for at a step, None where it asks for none.
MomentumOf = Callable[[int], float | None]


def rate_of(schedule: Schedule | float, plateau: Callable[[], float] | None = None) -> RateOf:
    """The function of a schedule. plateau: the rate now of the Plateau in it; None: its first. Raises NotServed."""
    spec = as_schedule("schedule", schedule)
    if isinstance(spec, Plateau):
        return _plateau(spec, plateau)
    maker = _MAKERS.get(type(spec))
    if maker is None:
        raise NotServed(f"schedule {type(spec).__name__}")
    return maker(spec, *(rate_of(inner, plateau) for inner in spec.inner()))


def value_at(schedule: Schedule | float, step: int) -> float:
    """One value; for many of them rate_of() is made for. Raises NotServed."""
    return rate_of(schedule)(step)


def plateau_at(schedule: Schedule, step: int) -> Plateau | None:
    """The Plateau that gives the rate at a step."""
    active, _ = _active(schedule, step)
    return active if isinstance(active, Plateau) else None


def momentum_of(schedule: Schedule) -> MomentumOf | None:
    """The momentum that goes with a schedule: that of the OneCycle which gives the rate. None if it has no OneCycle."""
    if not one_cycles(schedule):
        return None

    def momentum(step: int) -> float | None:
        active, own_step = _active(schedule, step)
        if not isinstance(active, specs.OneCycle):
            return None
        low, high = active.momentum_min, active.momentum_max
        # Rounding must not take it to 1.
        return min(max(_one_cycle_between(active, high, low, high, own_step), low), high)

    return momentum


def _active(schedule: Schedule, step: int) -> tuple[Schedule, int]:
    """The innermost schedule that gives the value at a step, and the step that it sees."""
    if isinstance(schedule, Warmup):
        (inner,) = schedule.inner()
        return _active(inner, step)
    if isinstance(schedule, specs.Sequence):
        place = min(bisect_right(schedule.starts, step), len(schedule.parts)) - 1
        return _active(schedule.inner()[place], step - schedule.starts[place])
    return schedule, step


def _line(start: float, end: float, at: int, width: int) -> float:
    """From start at 0 to end at width, both exact.

    start + (end - start) at / width would lose digits of an end that is much the smaller.
    """
    return (width - at) / width * start + at / width * end


def _between(start: float, end: float, share: float) -> float:
    """From start at 0 to end at 1, both exact."""
    return (1.0 - share) * start + share * end


def _plateau(spec: Plateau, plateau: Callable[[], float] | None) -> RateOf:
    if plateau is None:
        return lambda step: spec.lr
    rate = plateau
    return lambda step: rate()


def _constant(spec: specs.Constant) -> RateOf:
    lr = spec.lr
    return lambda step: lr


def _linear(spec: specs.Linear) -> RateOf:
    start, end, steps = spec.lr_start, spec.lr_end, spec.steps
    return lambda step: end if step >= steps else (steps - step) / steps * start + step / steps * end


def _polynomial(spec: specs.Polynomial) -> RateOf:
    start, end, steps, power = spec.lr_start, spec.lr_end, spec.steps, spec.power
    return lambda step: end if step >= steps else end + (start - end) * ((steps - step) / steps) ** power


def _step(spec: specs.Step) -> RateOf:
    lr, size, gamma = spec.lr, spec.step_size, spec.gamma
    return lambda step: lr * gamma ** (step // size)


def _multi_step(spec: specs.MultiStep) -> RateOf:
    milestones, lr, gamma = tuple(spec.milestones), spec.lr, spec.gamma
    return lambda step: lr * gamma ** bisect_right(milestones, step)


def _exponential(spec: specs.Exponential) -> RateOf:
    lr, gamma = spec.lr, spec.gamma
    return lambda step: lr * gamma**step


def _inverse_sqrt(spec: specs.InverseSqrt) -> RateOf:
    lr, warmup, sqrt = spec.lr, spec.warmup_steps, math.sqrt
    return lambda step: lr * ((step + 1) / warmup) if step < warmup else lr * sqrt(warmup / (step + 1))


def _cosine(spec: specs.Cosine) -> RateOf:
    low, high, steps, cos, pi = spec.lr_min, spec.lr_max, spec.steps, math.cos, math.pi

    def rate(step: int) -> float:
        if step >= steps:
            return low
        share = 0.5 * (1.0 + cos(pi * (step / steps)))
        return (1.0 - share) * low + share * high

    return rate


def _sgdr(spec: specs.SGDR) -> RateOf:
    low, high, first = spec.lr_min, spec.lr_max, spec.period
    mult, decay, cos, sin, pi = spec.period_mult, spec.decay, math.cos, math.sin, math.pi

    def rate(step: int) -> float:
        if mult == 1:
            run, at = divmod(step, first)
            period = first
        else:
            run, at, period = 0, step, first
            while at >= period:
                at -= period
                period *= mult
                run += 1
        if 2 * at <= period:
            share = 0.5 * (1.0 + cos(pi * (at / period)))
        else:  # the same, but not 0 at the end of a run, however long
            share = sin(0.5 * pi * ((period - at) / period)) ** 2
        return decay**run * ((1.0 - share) * low + share * high)

    return rate


def _cyclical(spec: specs.Cyclical) -> RateOf:
    low, high, size = spec.lr_min, spec.lr_max, spec.step_size
    whole, gamma, ldexp = 2 * spec.step_size, spec.gamma, math.ldexp

    def triangular(step: int) -> float:
        at = step % whole
        up = at if at <= size else whole - at
        return (size - up) / size * low + up / size * high

    def triangular2(step: int) -> float:
        cycle, at = divmod(step, whole)
        share = ldexp((at if at <= size else whole - at) / size, -cycle)
        return (1.0 - share) * low + share * high

    def exp_range(step: int) -> float:
        at = step % whole
        share = (at if at <= size else whole - at) / size * gamma**step
        return (1.0 - share) * low + share * high

    return {"triangular": triangular, "triangular2": triangular2, "exp_range": exp_range}[spec.policy]


def _one_cycle(spec: specs.OneCycle) -> RateOf:
    first = spec.lr_max / spec.div_factor
    top, last = spec.lr_max, first / spec.final_div_factor
    return lambda step: _one_cycle_between(spec, first, top, last, step)


def _one_cycle_between(spec: specs.OneCycle, first: float, top: float, last: float, step: int) -> float:
    """Half a cosine from `first` to `top`, half a cosine to `last`."""
    end = spec.steps - 1
    if step >= end:
        return last
    peak = spec.pct_start * spec.steps - 1.0
    if step <= peak and peak > 0.0:
        return _between(top, first, 0.5 * (1.0 + math.cos(math.pi * (step / peak))))
    peak = max(peak, 0.0)
    return _between(last, top, 0.5 * (1.0 + math.cos(math.pi * ((step - peak) / (end - peak)))))


def _warmup_stable_decay(spec: specs.WarmupStableDecay) -> RateOf:
    lr, last, warmup, decay = spec.lr, spec.lr_end, spec.warmup_steps, spec.decay_steps
    falls = spec.warmup_steps + spec.stable_steps

    def rate(step: int) -> float:
        if step < warmup:
            return lr * ((step + 1) / warmup)
        if step <= falls:
            return lr
        return last if step >= falls + decay else _line(lr, last, step - falls, decay)

    return rate


def _warmup(spec: specs.Warmup, inner: RateOf) -> RateOf:
    steps = spec.steps
    return lambda step: inner(step) if step + 1 >= steps else inner(step) * ((step + 1) / steps)


def _sequence(spec: specs.Sequence, *rates: RateOf) -> RateOf:
    starts = spec.starts
    borders = starts[1:-1]
    if len(rates) == 2:  # the usual ones need no search
        (border,), (before, behind) = borders, rates
        return lambda step: before(step) if step < border else behind(step - border)

    def rate(step: int) -> float:
        place = bisect_right(borders, step)
        return rates[place](step - starts[place])

    return rate


def _table(spec: specs.Table) -> RateOf:
    points: Sequence[tuple[int, float]] = spec.points
    steps, values = [step for step, _ in points], [value for _, value in points]
    first, last = values[0], len(values) - 1
    if spec.interpolation == "constant":
        held = [first, *values]
        return lambda step: held[bisect_right(steps, step)]
    spans = [
        (step, behind - step, value, next_value) for (step, value), (behind, next_value) in itertools.pairwise(points)
    ]

    def rate(step: int) -> float:
        place = bisect_right(steps, step) - 1
        if place < 0 or place == last:
            return values[max(place, 0)]
        start, width, value, next_value = spans[place]
        return _line(value, next_value, step - start, width)

    return rate


_MAKERS: dict[type[Schedule], Callable[..., RateOf]] = {
    specs.Constant: _constant,
    specs.Linear: _linear,
    specs.Polynomial: _polynomial,
    specs.Step: _step,
    specs.MultiStep: _multi_step,
    specs.Exponential: _exponential,
    specs.InverseSqrt: _inverse_sqrt,
    specs.Cosine: _cosine,
    specs.SGDR: _sgdr,
    specs.Cyclical: _cyclical,
    specs.OneCycle: _one_cycle,
    specs.WarmupStableDecay: _warmup_stable_decay,
    specs.Warmup: _warmup,
    specs.Sequence: _sequence,
    specs.Table: _table,
}
