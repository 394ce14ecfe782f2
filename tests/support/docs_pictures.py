"""`make docs-pictures`: docs/schedules.md, with every schedule drawn as `optimd plot-schedule` draws it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optimd_server.plot import curves_of, save_picture
from optimdpb.specs import Schedule
from optimdpb.specs.text import CLASS_OF_NAME, schedule_from_text

DOCS = Path(__file__).parents[2] / "docs"
STEPS = 600


@dataclass(frozen=True)
class Entry:
    """One schedule, and what it is good for. more: others to draw on the same picture."""

    text: str
    use: str
    more: tuple[str, ...] = ()


ENTRIES: dict[str, Entry] = {
    "constant": Entry("constant(0.1)", "To begin with, and wherever a number is meant; a plain number is the same."),
    "linear": Entry("linear(0.1, 0.0, 500)", "The usual decay of fine-tuning; with lr_end above lr_start, a ramp."),
    "polynomial": Entry(
        "polynomial(0.1, 0.0, 500, power=2)",
        "Falls fast first and slowly last (power above 1), or the other way round.",
        ("polynomial(0.1, 0.0, 500, power=0.5)",),
    ),
    "step": Entry("step(0.1, step_size=150, gamma=0.3)", "A cut every so many epochs."),
    "multi_step": Entry("multi_step(0.1, [200, 350, 500], 0.3)", "Cuts at known points, as in the papers on ResNets."),
    "exponential": Entry("exponential(0.1, gamma=0.993)", "A smooth fall by the same share each step."),
    "inverse_sqrt": Entry(
        "inverse_sqrt(0.1, warmup_steps=60)", "Transformers whose length of training is open (Noam)."
    ),
    "cosine": Entry("cosine(0.1, 0.0, 500)", "The usual decay where the length of training is known."),
    "sgdr": Entry(
        "sgdr(0.1, 0.001, period=80, period_mult=2)",
        "Snapshots at the end of each run, or no idea how long to train: stop at any restart.",
        ("sgdr(0.1, 0.001, period=80, period_mult=1, decay=0.7)",),
    ),
    "cyclical": Entry(
        "cyclical(0.01, 0.1, step_size=75)",
        "Between the two rates that a range test gives; step_size 2 to 10 epochs.",
        (
            "cyclical(0.01, 0.1, step_size=75, policy='triangular2')",
            "cyclical(0.01, 0.1, step_size=75, policy='exp_range', gamma=0.997)",
        ),
    ),
    "one_cycle": Entry("one_cycle(0.1, 600)", "Short training at high rates; momentum goes the other way (dashed)."),
    "warmup_stable_decay": Entry(
        "warmup_stable_decay(0.1, 60, 380, 120)", "Long training that may be prolonged: the fall can begin at any time."
    ),
    "warmup": Entry("warmup(cosine(0.1, 0.0, 600), steps=60)", "In front of any other: Adam's first steps are wild."),
    "sequence": Entry(
        "sequence([(100, linear(0.0, 0.1, 100)), (300, 0.1), (200, cosine(0.1, 0.0, 200))])",
        "Anything, piece by piece; each counts its steps from its own start.",
    ),
    "table": Entry(
        "table([(0, 0.02), (100, 0.1), (250, 0.06), (500, 0.0)])",
        "A curve that was found by hand or by search.",
        ("table([(0, 0.02), (100, 0.1), (250, 0.06), (500, 0.0)], 'constant')",),
    ),
    "plateau": Entry(
        "plateau(0.1, factor=0.4, patience=60)",
        "Cuts when the round's loss (grey) stands still; in Async every push is a round, so patience counts pushes.",
    ),
}
HEAD = """# Schedules

The server sets the learning rate from the global step t: the update that moves t to t + 1 uses the value at t, and
every push of that round sees the same. One spelling everywhere: `optimd.SGDR(lr_max=0.1, ...)` in Python,
`sgdr(lr_max=0.1, ...)` on the command line, `{"sgdr": {"lr_max": 0.1, ...}}` in JSON, the message `SGDR` in the
contract. A schedule that ends holds its last value. Any numeric hyper-parameter can follow one:
`optimd.Adam(lr=..., schedules={"weight_decay": optimd.Linear(0.0, 0.01, 1000)})`; the `lr_multiplier` of a group
multiplies lr.

This page is written by `make docs-pictures`; `optimd plot-schedule 'sgdr(...)' --steps N` draws your own.
"""
ASYNC = """
## What goes with what

- **Groups**: `lr_multiplier` multiplies the value; a hyper-parameter that a group sets itself is not scheduled there.
- **Momentum under OneCycle**: `momentum` or `beta1`, whichever the rule has, if it is above 0; one that is in
  `schedules` follows that alone. Bias corrections use the value of the step, as torch does.
- **SWATS** learns the rate of its SGD; from the switch on that rate is scaled by lr(t) / lr(switch).
- **AdaBound**: the bounds go with lr(t) over the schedule's largest value; after a live change, over the new one's.
- **Plateau** hears the loss of every applied round: the mean by weight of the finite losses reported with its pushes.
  In Async and Ssp that is every push, so noise counts and `patience` is to be larger. Rounds without a loss are not
  counted. In a `Sequence` it begins with its part; a live change of lr starts it afresh, one of anything else leaves it
  alone.
- **A live change** swaps the schedule; the new one sees the global step, not the steps since the change. To begin anew
  at step 2000: `sequence([(2000, 0.0), (1, sgdr(...))])` set at step 2000.
- **A range test** makes its steps under the sweep; changes to come, pause and plateau wait until all is put back.
- Factors (`gamma`, `decay`) are at most 1, also in `exp_range`: a schedule must stay finite for 2^53 steps.

## One push is one step

Under Async and Ssp every push is its own round, so n workers go through a schedule n times as fast as under Sync:
lengths (steps, period, warmup_steps, milestones, patience) are to be n times as large for the same number of epochs.
`optimd plot-schedule 'sgdr(0.1, 0.001, 80, 2)' --workers 4 --steps 600` shows both by the pushes of one worker:

![Sync and Async with four workers](schedules/workers.png)
"""


def page() -> str:
    """docs/schedules.md."""
    parts = [HEAD]
    for name, entry in ENTRIES.items():
        schedule = schedule_from_text(entry.text)
        formula = _first_paragraph(type(schedule))
        shown = "\n".join((entry.text, *entry.more))
        parts.append(
            f"\n## {type(schedule).__name__}\n\n{formula}\n\n{entry.use}\n\n```\n{shown}\n```\n"
            f"![{name}](schedules/{name}.png)\n"
        )
    return "".join([*parts, ASYNC])


def _first_paragraph(schedule_class: type[Schedule]) -> str:
    text = (schedule_class.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split())


def main() -> None:
    """Write the page and its pictures."""
    folder = DOCS / "schedules"
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in ENTRIES.items():
        schedules = [schedule_from_text(text) for text in (entry.text, *entry.more)]
        curves = [curve for schedule in schedules for curve in curves_of(schedule, STEPS)]
        save_picture(curves, folder / f"{name}.png", "global step")
    curves = curves_of(schedule_from_text("sgdr(0.1, 0.001, 80, 2)"), STEPS, workers=4)
    save_picture(curves, folder / "workers.png", "push of one worker")
    (DOCS / "schedules.md").write_text(page())
    assert set(ENTRIES) == set(CLASS_OF_NAME)


if __name__ == "__main__":
    main()
