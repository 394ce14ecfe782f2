"""The figures of benchmarks as bars: one panel for each, milliseconds beside every bar, claims below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.pairs import Claim, Figure

OURS, PEER = "#1f6feb", "#8b949e"


def draw(results: Mapping[str, Sequence[Figure | Claim]], path: Path) -> None:
    """Write a PNG."""
    from matplotlib.figure import Figure as Canvas

    panels = [
        (title, [entry for entry in entries if isinstance(entry, Figure)], [e for e in entries if isinstance(e, Claim)])
        for title, entries in results.items()
    ]
    panels = [panel for panel in panels if panel[1]]
    heights = [len(figures) + 1.2 + 0.5 * len(claims) for _, figures, claims in panels]
    canvas = Canvas(figsize=(10, 0.42 * sum(heights) + 0.5), layout="constrained")
    axes = canvas.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, (title, figures, claims) in zip(axes, panels, strict=True):
        names = [figure.name for figure in figures]
        colours = [OURS if "optimd" in name or "workers" in name else PEER for name in names]
        bars = axis.barh(range(len(names)), [figure.median_ms for figure in figures], color=colours)
        labels = [f" {figure.median_ms:.3g} ms ({figure.ratio:.2f})" for figure in figures]
        axis.bar_label(bars, labels, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(title, fontsize=9, loc="left")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        if claims:
            axis.set_xlabel("\n".join(map(str, claims)), fontsize=7, loc="left")
    canvas.savefig(path, dpi=110)
