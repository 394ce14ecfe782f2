"""`optimd demo`: options in, a progress bar, a table and a picture, or JSON, out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from optimdpb.program.command import Number, Parsed, command, json_option
from optimdpb.program.ending import DONE, FAILED, Failed, json_text

from optimd.demo.rules import RULES, optimizer_of

if TYPE_CHECKING:
    from optimd.demo.run import Outcome

WORKERS_MAX, STEPS_MAX = 64, 1_000_000


def _rules_of(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in RULES:
            raise ValueError(f"expected rules of {', '.join(RULES)}, got {name!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"expected each rule once, got {text}")
    return names


def _rule_of(text: str) -> list[str]:
    if text not in RULES:
        raise ValueError(f"expected one of {', '.join(RULES)}, got {text!r}")
    return [text]


@command("demo", example="optimd demo --compare adam,sgdm,swats --steps 300")
@click.option(
    "--workers", type=Number(int, 1, WORKERS_MAX), default=4, show_default=True, metavar="N", help="Ray workers."
)
@click.option(
    "--optimizer", type=Parsed("RULE", _rule_of), metavar="RULE", help=f"adam if none is given; {', '.join(RULES)}."
)
@click.option(
    "--compare", type=Parsed("RULES", _rules_of), metavar="RULE,RULE,...", help="Train each from the same start."
)
@click.option("--steps", type=Number(int, 1, STEPS_MAX), default=600, show_default=True, metavar="N", help="Updates.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    default=Path("optimd-demo.png"),
    show_default=True,
    metavar="FILE.png",
    help="The picture.",
)
@json_option
@click.pass_context
def main(
    context: click.Context,
    workers: int,
    optimizer: list[str] | None,
    compare: list[str] | None,
    steps: int,
    plot: Path,
    *,
    as_json: bool,
) -> int:
    """Train handwritten digits with Ray workers and a server on this machine; needs optimd[demo].

    Writes a picture of loss and learning rate.
    """
    if optimizer and compare:
        raise click.UsageError("expected --optimizer or --compare, got both", context)
    names = compare or optimizer or ["adam"]
    title = f"digits: {workers} Ray workers, {', '.join(names)}, {steps} steps"
    outcomes = _train(names, title, workers, steps, as_json=as_json)
    from optimd.demo import plot as pictures
    from optimd.demo import screen

    facts = {name: _facts(name, workers, outcome) for name, outcome in outcomes.items()}
    if compare:
        pictures.draw_comparison(outcomes, title, plot)
    else:
        pictures.draw(outcomes[names[0]], title, plot)
    if as_json:
        sys.stdout.write(json_text({"runs": list(facts.values()), "picture": str(plot.resolve())}))
    elif compare:
        screen.print_comparison(facts, plot.resolve())
    else:
        screen.print_facts(facts[names[0]], plot.resolve())
    return DONE if all(outcome.global_step == steps for outcome in outcomes.values()) else FAILED


def _train(names: list[str], title: str, workers: int, steps: int, *, as_json: bool) -> dict[str, Outcome]:
    """Each rule in turn, on one server. Raises Failed."""
    try:
        from optimd.demo import run, screen
    except ImportError as error:
        raise Failed("NOT_INSTALLED", f"{error}: pip install 'optimd[demo]'") from error
    outcomes: dict[str, Outcome] = {}
    try:
        with (
            screen.Screen(title, steps, sys.stderr if as_json else sys.stdout) as shown,
            run.server_for(workers) as server,
        ):
            for name in names:
                shown.begin(name)
                outcomes[name] = run.train(server, name, workers, optimizer_of(name, steps), steps, shown.show)
    except Exception as error:
        raise Failed("DEMO_FAILED", f"{type(error).__name__}: {error}") from error
    return outcomes


def _facts(name: str, workers: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "accuracy": round(outcome.accuracy, 4),
        "global_step": outcome.global_step,
        "seconds": round(outcome.seconds, 3),
        "steps_per_s": round(outcome.steps_per_s, 1),
        "workers": workers,
        "optimizer": name,
    }
