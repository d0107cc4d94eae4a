"""Figures, drawn from the rows of metrics.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sparring.files import replacing

Row = Mapping[str, float]


def robust_curves(histories: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Robust accuracy on the images held out for validation, by epoch, one line a method; written as PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    best_first = sorted(histories.items(), key=lambda item: -item[1][-1]["robust"])
    for name, rows in best_first:
        axes.plot([row["epoch"] + 1 for row in rows], [100 * row["robust"] for row in rows], marker=".", label=name)
    figure.legend(loc="outside right center", frameon=False)
    axes.set(xlabel="epoch", ylabel="accuracy under attack, %", title="Robust accuracy during training", ylim=(-2, 100))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
