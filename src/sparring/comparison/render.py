"""A comparison for the terminal, as Markdown, as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.table import Table

from sparring.comparison.beside import Comparison, Figure, Line
from sparring.results.markdown import TITLES

_COLUMNS = (
    *(
        "table",
        "scale",
        "method",
        "recipe",
        "settings",
        "seeds",
        "epoch",
        "attack",
        "images",
        "ours",
        "deviation",
        "band",
    ),
    *("published", "difference", "published_epoch", "minutes", "published_minutes", "passes"),
)


def terminal(comparison: Comparison) -> Table:
    """Return the table, with a line each for our figures, their bands, the published ones and the differences."""
    table = Table(title=caption(comparison), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("method, epoch")
    for title in titles(comparison)[WORDS:]:
        table.add_column(title, justify="right", no_wrap=True)
    for line in comparison.lines:
        (method, epoch, _, *first), *others = _lines(line, comparison.talk.attacks)
        table.add_row(f"{method}, {epoch}", *(cell.split(" ±")[0] for cell in first))
        if line.seeds:
            table.add_row("  ±", *(cell.partition(" ±")[2] for cell in first))
        for _, _, what, *figures in others:
            table.add_row(f"  {what}", *figures)
        table.add_section()
    return table


def markdown(comparison: Comparison) -> str:
    """Return the table as a page of its own."""
    return page(
        f"{comparison.talk.name}: {comparison.talk.title}", caption(comparison), titles(comparison), cells(comparison)
    )


def page(title: str, said: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown below its title and what is said of it; the first three columns have words."""
    rule = ["---" if number < WORDS else "---:" for number in range(len(heads))]
    table = [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]
    return "\n".join([f"# {title}", "", said, "", *table, ""])


def latex(comparison: Comparison) -> str:
    """Return the table for LaTeX with booktabs, in a `table` with its caption."""
    groups = [_lines(line, comparison.talk.attacks) for line in comparison.lines]
    return booktabs(caption(comparison), titles(comparison), groups)


def booktabs(said: str, heads: Sequence[str], groups: Iterable[Iterable[Sequence[str]]]) -> str:
    """Return groups of rows for LaTeX with booktabs; the first three columns have words."""
    body = ["\n".join(" & ".join(map(_escaped, row)) + r" \\" for row in rows) for rows in groups]
    columns = "l" * WORDS + "r" * (len(heads) - WORDS)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(said)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_escaped, heads)) + r" \\",
            r"\midrule",
            "\n\\addlinespace\n".join(body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def as_csv(comparison: Comparison) -> str:
    """Return a line a figure; accuracies in percent, unrounded, empty where there is none."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in comparison.lines:
        for attack, figure in line.figures.items():
            writer.writerow(
                {
                    "table": comparison.talk.name,
                    "scale": comparison.scale,
                    "method": line.row.method,
                    "recipe": line.row.recipe or "",
                    "settings": " ".join(line.settings),
                    "seeds": line.seeds,
                    "epoch": line.checkpoint if line.seeds else "",
                    "attack": attack,
                    "images": comparison.samples if line.seeds else "",
                    "ours": figure.ours,
                    "deviation": figure.deviation,
                    "band": figure.band,
                    "published": line.published.accuracies.get(attack, ""),
                    "difference": figure.difference,
                    "published_epoch": line.published.checkpoint,
                    "minutes": line.minutes,
                    "published_minutes": line.published.minutes or "",
                    "passes": line.passes,
                }
            )
    return stream.getvalue()


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": markdown, "csv": as_csv, "tex": latex}


def caption(comparison: Comparison) -> str:
    """Return what is compared, in sentences: the scale with its overrides, the images, what the signs mean."""
    if any(line.row.model for line in comparison.lines):
        return (
            f"{comparison.talk.source}, published; ours beside where a network's weights were measured here, by sparring "
            f"evaluate .. --attacks {','.join(comparison.talk.attacks)} --output OUT/{comparison.talk.name}/MODEL, where "
            "MODEL is the name in brackets and OUT compare's --out. Accuracies in percent; ± is the half-width of the 95% "
            "interval that the number of images allows."
        )
    if not any(line.row.recipe for line in comparison.lines):
        return f"{comparison.talk.source}, as published: no row can be trained here. Accuracies in percent."
    settings = [line.settings[len(line.row.settings) :] for line in comparison.lines if line.settings]
    common = [setting for setting in settings[0] if all(setting in others for others in settings)]
    own = sorted({setting for others in settings for setting in others} - set(common))
    trained = f"trained with {' '.join(common)}" if common else "trained at full size"
    trained += f", where they apply also {' '.join(own)}" if own else ""
    images = f"{comparison.samples} test images" if comparison.samples else "no test images yet"
    return (
        f"{comparison.talk.source}, published beside ours. Scale {comparison.scale}: ours are {trained}, and measured on "
        f"{images}. Accuracies in percent; ± is the half-width of the 95% interval that so many images allow, in brackets "
        "the deviation over seeds; passes are what a training step costs, in forward passes of its batch."
    )


WORDS = 3  # columns with words


def titles(comparison: Comparison) -> list[str]:
    """Return the heads of its columns, of which the first three have words below them."""
    return ["method", "epoch", "", *(TITLES[attack] for attack in comparison.talk.attacks), "minutes", "passes"]


def cells(comparison: Comparison) -> Iterator[list[str]]:
    """Yield the rows below the heads, as texts."""
    for line in comparison.lines:
        yield from _lines(line, comparison.talk.attacks)


def _lines(line: Line, attacks: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield our line, where there is one, the published one, and the difference."""
    figures = [line.figures[attack] for attack in attacks]
    minutes = "" if line.minutes is None else f"{line.minutes:.1f}"
    passes = "" if line.passes is None else f"{line.passes:.1f}"
    method = line.row.method if line.seeds < 2 else f"{line.row.method} ({line.seeds} seeds)"
    method += f" ({line.row.model})" if line.row.model else ""
    published = [str(line.published.accuracies.get(attack, "")) for attack in attacks]
    theirs = [*published, str(line.published.minutes or ""), ""]
    if not line.seeds:
        yield [method, line.published.checkpoint, "published", *theirs]
        return
    yield [method, line.checkpoint, "ours", *map(_ours, figures), minutes, passes]
    yield ["", line.published.checkpoint, "published", *theirs]
    yield ["", "", "difference", *(_signed(figure.difference) for figure in figures), "", ""]


def _ours(figure: Figure) -> str:
    deviation = "" if figure.deviation is None else f" ({figure.deviation:.1f})"
    return "" if figure.ours is None else f"{figure.ours:.1f} ±{figure.band:.1f}{deviation}"


def _signed(difference: float | None) -> str:
    return "" if difference is None else f"{difference:+.1f}"


_SPECIAL = str.maketrans({"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "±": r"$\pm$", "^": r"\^{}", "~": r"\~{}"})


def _escaped(text: str) -> str:
    return text.translate(_SPECIAL).replace("--", "-{}-")
