"""The demo's picture: loss, accuracy and learning rate against the global step."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from optimd.demo.run import Outcome


def draw(outcome: Outcome, title: str, path: Path) -> None:
    """Write the PNG."""
    figure, (loss, accuracy, rate) = plt.subplots(3, 1, sharex=True, figsize=(8, 8), layout="constrained")
    figure.suptitle(title)
    loss.semilogy(outcome.steps, outcome.loss, color="tab:blue", linewidth=0.8)
    loss.set_ylabel("training loss\n(mean over workers)")
    accuracy.plot(*zip(*outcome.accuracies, strict=True), color="tab:green", marker=".", markersize=4)
    accuracy.axhline(outcome.accuracy, color="tab:gray", linestyle=":", linewidth=1)
    accuracy.annotate(
        f"{outcome.accuracy:.1%} at the end",
        (outcome.global_step, outcome.accuracy),
        xytext=(-4, -14),
        textcoords="offset points",
        ha="right",
    )
    accuracy.set_ylabel("accuracy on the\nheld-out fifth")
    rate.plot(outcome.steps, outcome.learning_rate, color="tab:orange")
    rate.set_ylabel("learning rate\n(set by the server)")
    rate.set_xlabel("global step")
    for axis in (loss, accuracy, rate):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
