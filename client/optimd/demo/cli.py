"""`optimd demo`: arguments in, a progress bar, a table, a picture and a JSON file out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from optimdpb.specs import SGD, SGDM, Adam, Cosine, Optimizer, Warmup

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
# Peak learning rates that train the digits well within the default number of steps.
_LR_MAX = {"adam": 3e-3, "sgdm": 0.1, "sgd": 0.5}


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
    title = f"digits: {options.workers} Ray workers, {options.optimizer}, {options.steps} steps"
    try:
        with screen.Screen(title, options.steps) as shown:
            outcome = run.run(options.workers, _optimizer(options.optimizer, options.steps), options.steps, shown.show)
    except KeyboardInterrupt:
        print("optimd demo: interrupted", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        print(f"optimd demo: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    plot.draw(outcome, title, options.plot)
    facts = {
        "accuracy": round(outcome.accuracy, 4),
        "global_step": outcome.global_step,
        "seconds": round(outcome.seconds, 3),
        "steps_per_s": round(outcome.steps_per_s, 1),
        "workers": options.workers,
        "optimizer": options.optimizer,
    }
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    screen.print_facts(facts, options.plot.resolve())
    return EXIT_OK if outcome.global_step == options.steps else EXIT_FAILED


def _optimizer(name: str, steps: int) -> Optimizer:
    """The rule with a warm-up over a twentieth of the steps and half a cosine."""
    peak = _LR_MAX[name]
    schedule = Warmup(Cosine(lr_max=peak, lr_min=peak / 100, steps=steps), steps=max(1, steps // 20))
    rules: dict[str, type[Optimizer]] = {"adam": Adam, "sgdm": SGDM, "sgd": SGD}
    return rules[name](schedule)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimd demo", description="Train digits with Ray workers on a local cluster.", allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, default=4, metavar="N")
    parser.add_argument("--optimizer", choices=sorted(_LR_MAX), default="adam")
    parser.add_argument("--steps", type=int, default=600, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the facts of the run here")
    parser.add_argument("--plot", type=Path, default=Path("optimd-demo.png"), metavar="FILE", help="the picture")
    return parser
