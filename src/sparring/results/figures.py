"""Figures, drawn as PNG from what a run's folder holds: metrics.csv, and the files of diagnostics/."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sparring.errors import BadInput
from sparring.files import replacing
from sparring.training.run import Row

Histories = Mapping[str, Sequence[Row]]  # by run, its rows of metrics.csv


def robust_curves(histories: Histories, path: Path) -> None:
    """Plot robust accuracy on the images held out for validation, by epoch, one line a method."""
    figure, axes = _by_epoch("Robust accuracy during training", "accuracy under attack, %")
    best_first = sorted(histories.items(), key=lambda item: -item[1][-1]["robust"])
    for name, rows in best_first:
        axes.plot(_epochs(rows), [100 * row["robust"] for row in rows], marker=".", label=name)
    figure.legend(loc="outside right center", frameon=False)
    axes.set(ylim=(-2, 100))
    _save(figure, path)


def train_test_curves(histories: Histories, path: Path) -> None:
    """Plot accuracy under attack by epoch on training images (dashed) and on those held out: how far robustness overfits.

    Raises BadInput for a run that was trained without diagnostics.train_images.
    """
    figure, axes = _by_epoch("Robust accuracy on training and on held-out images", "accuracy under attack, %")
    for name, rows in histories.items():
        (line,) = axes.plot(_epochs(rows), [100 * row["robust"] for row in rows], label=name)
        seen = _column(name, rows, "train_robust", "diagnostics.train_images")
        axes.plot(_epochs(rows), [100 * value for value in seen], color=line.get_color(), linestyle="--")
    styles = [Line2D([], [], color="grey", linestyle=style) for style in ("-", "--")]
    handles, names = axes.get_legend_handles_labels()
    figure.legend([*handles, *styles], [*names, "held out", "training"], loc="outside right center", frameon=False)
    axes.set(ylim=(-2, 100))
    _save(figure, path)


def norms(histories: Histories, eps: float, components: int, path: Path) -> None:
    """Plot the natural log of E||delta||_2 by epoch, beside the bound of FGSM-PGI's Proposition 1 and two norms to compare.

    `components` is d, those of an image: 3072 for CIFAR-10; `eps` the radius in the maximum norm. Raises BadInput for a
    run that was trained with `diagnostics.every: 0`.
    """
    figure, axes = _by_epoch("Length of the training perturbations", "log E‖delta‖₂")
    for name, rows in histories.items():
        lengths = _column(name, rows, "delta_l2", "diagnostics.every")
        axes.plot(_epochs(rows), [math.log(length) for length in lengths], marker=".", label=name)
    for name, factor, style in (
        ("√d eps: all at the radius", components, ":"),
        ("√(d/3) eps: a uniform start", components / 3, "-."),
        ("√(1/d) eps: Proposition 1", 1 / components, "--"),
    ):
        axes.axhline(math.log(eps) + math.log(factor) / 2, color="black", linewidth=1, linestyle=style, label=name)
    figure.legend(loc="outside right center", frameon=False)
    _save(figure, path)


def action_shares(rows: Sequence[Row], labels: Sequence[str], title: str, path: Path) -> None:
    """Plot the shares of a policy's actions by epoch, stacked: rows of such a file as diagnostics/actions_eps.csv.

    `labels` name the columns from the first on. Raises BadInput if there are more or fewer.
    """
    columns = [column for column in rows[0] if column != "epoch"]
    if len(columns) != len(labels):
        raise BadInput(f"There are {len(columns)} actions and {len(labels)} labels for them: give one label an action.")
    figure, axes = _by_epoch(title, "share of the samples, %")
    shares = [[100 * row[column] for row in rows] for column in columns]
    shades = [colormaps["viridis"]((position + 0.5) / len(columns)) for position in range(len(columns))]
    axes.stackplot(_epochs(rows), shares, labels=labels, colors=shades)
    axes.margins(x=0)
    axes.set(ylim=(0, 100))
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right center", frameon=False)  # as they are stacked
    _save(figure, path)


def perturbation_panels(snapshots: Mapping[int, Mapping[str, Tensor]], eps: float, path: Path) -> None:
    """Start and final perturbation of the followed images, a column an epoch, as `Run.perturbations` gives them.

    [-eps, eps] is shown as black to white (of each colour), zero as grey. Raises BadInput without any snapshot.
    """
    if not snapshots:
        raise BadInput("There are no perturbations to show: train with diagnostics.images above 0.")
    first = next(iter(snapshots.values()))
    kinds = [kind for kind in ("start", "delta") if kind in first]
    titles = [f"{kind} {index}" for index in first["index"].tolist() for kind in kinds]
    figure = Figure(figsize=(1 + 1.1 * len(snapshots), 1.1 * len(titles) + 0.4), layout="constrained")
    grid = figure.subplots(len(titles), len(snapshots), squeeze=False)
    for column, (epoch, tensors) in enumerate(sorted(snapshots.items())):
        shown = [picture for pair in zip(*(tensors[kind] for kind in kinds), strict=True) for picture in pair]
        for row, picture in enumerate(shown):
            axes = grid[row, column]
            pixels = (picture.float() / (2 * eps) + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
            axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"epoch {epoch + 1}", fontsize=9)
            if column == 0:
                axes.set_ylabel(titles[row], fontsize=9)
    _save(figure, path)


def _by_epoch(title: str, unit: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=unit, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _epochs(rows: Sequence[Row]) -> list[float]:
    """Return counted from 1, as people do."""
    return [row["epoch"] + 1 for row in rows]


def _column(run: str, rows: Sequence[Row], column: str, option: str) -> list[float]:
    if any(column not in row for row in rows):
        raise BadInput(f"metrics.csv of {run} has no column {column}: train it with {option} above 0.")
    return [row[column] for row in rows]


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
