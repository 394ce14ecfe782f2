"""The demo's pictures: loss, accuracy and learning rate against the global step; or several rules side by side."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from optimd.demo.run import Outcome

SMOOTHED = 20


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


def draw_comparison(outcomes: dict[str, Outcome], title: str, path: Path) -> None:
    """Write a PNG with loss and accuracy of every rule; the loss is a running mean over SMOOTHED steps."""
    figure, (loss, accuracy) = plt.subplots(2, 1, sharex=True, figsize=(9, 8), layout="constrained")
    figure.suptitle(title, wrap=True)
    colors = plt.get_cmap("tab20" if len(outcomes) > 10 else "tab10").colors  # type: ignore[attr-defined]
    for color, (name, outcome) in zip(itertools.cycle(colors), outcomes.items(), strict=False):
        width = min(SMOOTHED, len(outcome.loss))
        smooth = np.convolve(outcome.loss, np.full(width, 1 / width), mode="valid")
        loss.semilogy(outcome.steps[width - 1 :], smooth, color=color, linewidth=1.2, label=name)
        label = f"{name}: {outcome.accuracy:.1%} at the end"
        accuracy.plot(*zip(*outcome.accuracies, strict=True), color=color, marker=".", markersize=4, label=label)
    loss.set_ylabel(f"training loss\n(running mean over {SMOOTHED} steps)")
    accuracy.set_ylabel("accuracy on the held-out fifth")
    accuracy.set_xlabel("global step")
    accuracy.legend(loc="lower right", fontsize="small", ncols=1 + len(outcomes) // 7)
    for axis in (loss, accuracy):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
