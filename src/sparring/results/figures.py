"""Figures, drawn from what a run's folder holds: metrics.csv, and the files of diagnostics/. PNG or SVG, by the name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from sparring.errors import BadInput
from sparring.files import replacing
from sparring.results.markdown import TITLES
from sparring.training.run import Row

Histories = Mapping[str, Sequence[Row]]  # by run, its rows of metrics.csv

# Told apart also with a colour-vision deficiency (Okabe and Ito), and in grey by their strokes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STROKES = ("-", "--", "-.", ":")
_HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
_SIZE = (5.0, 3.4)  # inches: in a column of print, 3.4 wide, letters of 10 points are of 7


def check_name(path: Path) -> None:
    """Raise BadInput for a name that says no kind of file that a figure can be."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise BadInput(f"A figure is written as .png or .svg: name the file so, not {path}.")


def save(figure: Figure, path: Path) -> None:
    """Replace the file by the figure; raises BadInput for a name that ends neither in .png nor in .svg."""
    check_name(path)
    # Text stays text in an SVG, and the same figure is the same file.
    with replacing(path) as temporary, rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparring"}):
        kind = path.suffix.lower().removeprefix(".")
        figure.savefig(temporary, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def robust_curves(histories: Histories) -> Figure:
    """Return robust accuracy on the images held out for validation, by epoch, one line a run."""
    figure, axes = _by_epoch("accuracy under attack, %")
    styled = zip(histories.items(), _styles(), strict=False)
    for (name, rows), style in sorted(styled, key=lambda item: -item[0][1][-1]["robust"]):  # the best is named first
        axes.plot(_epochs(rows), [100 * row["robust"] for row in rows], label=name, **style)
    axes.set(ylim=(-2, 100))
    return _with_legend(figure, axes)


def train_test_curves(histories: Histories) -> Figure:
    """Return accuracy under attack by epoch on training images (dashed) and on those held out: how far robustness overfits.

    Raises BadInput for a run that was trained without diagnostics.train_images.
    """
    figure, axes = _by_epoch("accuracy under attack, %")
    for (name, rows), colour in zip(histories.items(), cycle(_COLOURS), strict=False):
        axes.plot(_epochs(rows), [100 * row["robust"] for row in rows], color=colour, label=name)
        seen = _column(name, rows, "train_robust", "diagnostics.train_images")
        axes.plot(_epochs(rows), [100 * value for value in seen], color=colour, linestyle="--")
    styles = [Line2D([], [], color="grey", linestyle=stroke) for stroke in ("-", "--")]
    axes.set(ylim=(-2, 100))
    return _with_legend(figure, axes, dict(zip(("held out", "training"), styles, strict=True)))


def attack_success(histories: Histories) -> Figure:
    """Return by epoch the share of training examples that fool the network before its update (FGSM-SDI, Fig. 6)."""
    figure, axes = _by_epoch("success of the training attack, %")
    for (name, rows), style in zip(histories.items(), _styles(), strict=False):
        axes.plot(_epochs(rows), [100 * row["attack_success"] for row in rows], label=name, **style)
    axes.set(ylim=(-2, 100))
    return _with_legend(figure, axes)


def accuracy_and_minutes(histories: Histories) -> Figure:
    """Return robust accuracy on held-out images against the minutes of training that it took, one line a run."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = _plain(figure.add_subplot(), "minutes of training", "accuracy under attack, %")
    for (name, rows), style in zip(histories.items(), _styles(), strict=False):
        minutes, spent = [], 0.0
        for row in rows:
            spent += row["train_seconds"] / 60
            minutes.append(spent)
        axes.plot(minutes, [100 * row["robust"] for row in rows], label=name, **style)
    axes.set(ylim=(-2, 100), xlim=(0, None))
    return _with_legend(figure, axes)


def bands(groups: Mapping[str, Sequence[Sequence[Row]]]) -> Figure:
    """Return mean robust accuracy on held-out images by epoch, between the lowest and the highest of repeated runs.

    `groups` has the rows of metrics.csv of each run, by method. A group ends with the shortest of its runs.
    """
    figure, axes = _by_epoch("accuracy under attack, %")
    for (name, runs), style in zip(groups.items(), _styles(), strict=False):
        length = min(map(len, runs))
        values = [[100 * rows[epoch]["robust"] for rows in runs] for epoch in range(length)]
        epochs = _epochs(runs[0][:length])
        label = f"{name} ({len(runs)} {'run' if len(runs) == 1 else 'runs'})"
        axes.plot(epochs, [statistics.mean(found) for found in values], label=label, **style)
        lowest, highest = [min(found) for found in values], [max(found) for found in values]
        axes.fill_between(epochs, lowest, highest, color=style["color"], alpha=0.2, linewidth=0)
    axes.set(ylim=(-2, 100))
    return _with_legend(figure, axes)


def attack_bars(accuracies: Mapping[str, Mapping[str, float]]) -> Figure:
    """Return accuracy under each attack, a bar a run beside one another (LAS-AT, Fig. 3).

    `accuracies` are fractions by run, then by attack; attacks that a run lacks have no bar.
    """
    attacks = list(dict.fromkeys(attack for found in accuracies.values() for attack in found))
    figure = Figure(figsize=(_SIZE[0], _SIZE[1] + 0.2 * (len(accuracies) // 2)), layout="constrained")
    axes = _plain(figure.add_subplot(), "attack", "accuracy, %")
    width = 0.8 / len(accuracies)
    for number, (name, found) in enumerate(accuracies.items()):
        places = [place + (number - (len(accuracies) - 1) / 2) * width for place in range(len(attacks))]
        values = [100 * found.get(attack, math.nan) for attack in attacks]
        colour, hatch = _COLOURS[number % len(_COLOURS)], _HATCHES[number % len(_HATCHES)]
        axes.bar(places, values, width, label=name, color=colour, hatch=hatch, edgecolor="white")
    axes.set_xticks(range(len(attacks)), [TITLES.get(attack, attack) for attack in attacks])
    axes.set(ylim=(0, None))
    return _with_legend(figure, axes)


def ablation(setting: str, values: Sequence[str], accuracies: Sequence[Mapping[str, float]]) -> Figure:
    """Return accuracy by the value of one setting, a line an attack (LAS-AT, Tables 1 and 6; FGSM-SDI, Fig. 4 and 7).

    `accuracies` are fractions by attack, one mapping for each of `values`; only attacks that all have are drawn. Values that
    are numbers stand in their order, others in the given one.
    """
    attacks = [attack for attack in accuracies[0] if all(attack in found for found in accuracies)]
    rows = list(zip(values, accuracies, strict=True))
    if all(_is_number(value) for value in values):
        rows.sort(key=lambda row: float(row[0]))
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = _plain(figure.add_subplot(), setting, "accuracy, %")
    for attack, style in zip(attacks, _styles(), strict=False):
        axes.plot([100 * found[attack] for _, found in rows], label=TITLES.get(attack, attack), **style)
    axes.set_xticks(range(len(rows)), [value for value, _ in rows])
    axes.set(ylim=(0, None))
    return _with_legend(figure, axes)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def gradient_means(histories: Histories) -> Figure:
    """Return the left side of LAS-AT's Theorem 1, the running mean of squared gradient norms, by steps.

    A grey line falls like one over the square root of the steps, as the theorem's bound does; its height is arbitrary.
    Raises BadInput for a run that was trained with `diagnostics.every: 0`.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = _plain(figure.add_subplot(), "steps", "mean of ‖gradient‖²")
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    for (name, rows), style in zip(histories.items(), _styles(), strict=False):
        means = _column(name, rows, "gradient_square_mean", "diagnostics.every")
        axes.plot([row["steps"] for row in rows], means, label=name, **style)
    first = next(iter(histories.values()))
    steps = [row["steps"] for row in first]
    start = first[0]["gradient_square_mean"] * math.sqrt(steps[0])
    axes.plot(
        steps, [start / math.sqrt(step) for step in steps], color="grey", linewidth=1, label="falls like 1/√steps"
    )
    return _with_legend(figure, axes)


def norms(histories: Histories, eps: float, components: int) -> Figure:
    """Return the natural log of E||delta||_2 by epoch, beside the bound of FGSM-PGI's Proposition 1 and two other norms.

    `components` is d, those of an image: 3072 for CIFAR-10; `eps` the radius in the maximum norm. Raises BadInput for a
    run that was trained with `diagnostics.every: 0`.
    """
    figure, axes = _by_epoch("log E‖delta‖₂")
    for (name, rows), style in zip(histories.items(), _styles(), strict=False):
        lengths = _column(name, rows, "delta_l2", "diagnostics.every")
        axes.plot(_epochs(rows), [math.log(length) for length in lengths], label=name, **style)
    for name, factor, stroke in (
        ("√d eps: all at the radius", components, ":"),
        ("√(d/3) eps: a uniform start", components / 3, "-."),
        ("√(1/d) eps: Proposition 1", 1 / components, "--"),
    ):
        axes.axhline(math.log(eps) + math.log(factor) / 2, color="grey", linewidth=1, linestyle=stroke, label=name)
    return _with_legend(figure, axes)


def action_shares(shares: Mapping[str, Sequence[Row]], labels: Mapping[str, Sequence[str]]) -> Figure:
    """Return the shares of a policy's actions by epoch, stacked, a panel a table.

    `shares` are the rows of such files as diagnostics/actions_eps.csv; `labels` name the columns of each, from the first on.
    Raises BadInput if there are more or fewer.
    """
    figure = Figure(figsize=(_SIZE[0], 2.6 * len(shares)), layout="constrained")
    panels = figure.subplots(len(shares), squeeze=False)[:, 0]
    for axes, (table, rows) in zip(panels, shares.items(), strict=True):
        columns = [column for column in rows[0] if column != "epoch"]
        if len(columns) != len(labels[table]):
            raise BadInput(
                f"There are {len(columns)} actions and {len(labels[table])} labels for them: give one label an action."
            )
        _plain(axes, "epoch", f"{table}: share of the samples, %").grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        shades = [colormaps["cividis"]((position + 0.5) / len(columns)) for position in range(len(columns))]
        values = [[100 * row[column] for row in rows] for column in columns]
        axes.stackplot(_epochs(rows), values, labels=labels[table], colors=shades)
        axes.margins(x=0)
        axes.set(ylim=(0, 100))
        handles, names = axes.get_legend_handles_labels()  # turned round: as they are stacked
        axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return figure


def sample_strengths(rows: Sequence[Row], eps: float) -> Figure:
    """Return the radius that a policy expects for each followed image, by epoch: rows of diagnostics/eps_expected.csv."""
    figure, axes = _by_epoch("expected radius / eps")
    columns = [column for column in rows[0] if column != "epoch"]
    for column, style in zip(columns, _styles(), strict=False):
        axes.plot(_epochs(rows), [row[column] / eps for row in rows], label=f"image {column}", **style)
    return _with_legend(figure, axes)


def perturbation_panels(snapshots: Mapping[int, Mapping[str, Tensor]], eps: float) -> Figure:
    """Return start and final perturbation of the followed images, a column an epoch, as `Run.perturbations` gives them.

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
    return figure


def _by_epoch(unit: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = _plain(figure.add_subplot(), "epoch", unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _plain(axes: Axes, x: str, y: str) -> Axes:
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return axes


def _styles() -> Iterator[dict[str, Any]]:
    """Yield colours and strokes, no two alike before they begin again."""
    for colour, stroke in zip(cycle(_COLOURS), cycle(_STROKES), strict=False):
        yield {"color": colour, "linestyle": stroke, "marker": "."}


def _with_legend(figure: Figure, axes: Axes, more: Mapping[str, Line2D] | None = None) -> Figure:
    """Return the figure with its legend below, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    more = more or {}
    figure.legend(
        [*handles, *more.values()], [*names, *more], loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
    return figure


def _epochs(rows: Sequence[Row]) -> list[float]:
    """Return counted from 1, as people do."""
    return [row["epoch"] + 1 for row in rows]


def _column(run: str, rows: Sequence[Row], column: str, option: str) -> list[float]:
    if any(column not in row for row in rows):
        raise BadInput(f"metrics.csv of {run} has no column {column}: train it with {option} above 0.")
    return [row[column] for row in rows]
