"""`optimd demo`: arguments in, a progress bar, a table, a picture and a JSON file out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimd.command import printable
from optimd.demo.rules import RULES, optimizer_of

if TYPE_CHECKING:
    from optimd.demo.run import Outcome

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Run the demo. Returns 0 if it trained to the end, 1 if it failed, 2 on wrong usage."""
    options = _parser().parse_args(argv)
    if not 1 <= options.workers <= 64 or not 1 <= options.steps <= 1_000_000:
        print("optimd demo: expected 1 to 64 workers and 1 to 1000000 steps", file=sys.stderr)
        return EXIT_USAGE
    try:
        from optimd.demo import plot, run, screen
    except ImportError as error:
        print(f"optimd demo: {error}: pip install 'optimd[demo]'", file=sys.stderr)
        return EXIT_FAILED
    names = options.compare or [options.optimizer]
    title = f"digits: {options.workers} Ray workers, {', '.join(names)}, {options.steps} steps"
    outcomes: dict[str, Outcome] = {}
    try:
        with screen.Screen(title, options.steps) as shown, run.server_for(options.workers) as server:
            for name in names:
                shown.begin(name)
                optimizer = optimizer_of(name, options.steps)
                outcomes[name] = run.train(server, name, options.workers, optimizer, options.steps, shown.show)
    except KeyboardInterrupt:
        print("optimd demo: interrupted", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        print(f"optimd demo: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    facts = {name: _facts(name, options.workers, outcome) for name, outcome in outcomes.items()}
    if options.compare:
        plot.draw_comparison(outcomes, title, options.plot)
        screen.print_comparison(facts, options.plot.resolve())
    else:
        plot.draw(outcomes[names[0]], title, options.plot)
        screen.print_facts(facts[names[0]], options.plot.resolve())
    if options.json:
        shown_facts: object = list(facts.values()) if options.compare else facts[names[0]]
        options.json.write_text(json.dumps(shown_facts, indent=2) + "\n")
    finished = all(outcome.global_step == options.steps for outcome in outcomes.values())
    return EXIT_OK if finished else EXIT_FAILED


def _facts(name: str, workers: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "accuracy": round(outcome.accuracy, 4),
        "global_step": outcome.global_step,
        "seconds": round(outcome.seconds, 3),
        "steps_per_s": round(outcome.steps_per_s, 1),
        "workers": workers,
        "optimizer": name,
    }


def _rules(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in RULES:
            raise argparse.ArgumentTypeError(f"expected rules of {', '.join(RULES)}, got {name!r}")
    if len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"expected each rule once, got {text}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimd demo", description="Train digits with Ray workers on a local cluster.", allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, default=4, metavar="N")
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument("--optimizer", choices=list(RULES), default="adam", metavar="RULE", help=", ".join(RULES))
    rules.add_argument("--compare", type=_rules, metavar="RULE,RULE,...", help="train each from the same start")
    parser.add_argument("--steps", type=int, default=600, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the facts of the run here")
    parser.add_argument("--plot", type=Path, default=Path("optimd-demo.png"), metavar="FILE", help="the picture")
    return parser
