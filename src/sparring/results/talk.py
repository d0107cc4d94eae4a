"""The tables of the talk: which rows each has, and which recipe trains a row here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sparring.errors import unknown
from sparring.results.published import Published, published


@dataclass(frozen=True)
class Row:
    """What a table says of one method in one setting: a figure each of the best and the last epoch, or one of either."""

    method: str  # as it is printed
    published: tuple[Published, ...]
    recipe: str | None  # such as "cifar10/fgsm-rs"; None where it cannot be trained here
    settings: tuple[str, ...]  # overrides of the recipe, such as "--model.name=wideresnet-34-10"
    data: str | None = None  # of the row's data set, the name here
    model: str | None = None  # RobustBench's name of the network whose weights it offers


@dataclass(frozen=True)
class TalkTable:
    """A table of the talk."""

    name: str  # such as "sdi-table-6"
    title: str
    source: str  # where it is printed
    rows: tuple[Row, ...]

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks of which it has accuracies, in the order of its columns."""
        printed = [attack for row in self.rows for line in row.published for attack in line.accuracies]
        return tuple(dict.fromkeys(sorted(printed, key=_ORDER.index)))


_ORDER = ("clean", "fgsm", "pgd-10", "pgd-20", "pgd-50", "cw-20", "apgd-ce", "aa")


def names() -> list[str]:
    """Return the names of all tables, in the talk's order."""
    return list(_content()["tables"])


@cache
def table(name: str) -> TalkTable:
    """Return the table of that name; raises BadInput for one that there is not, with the nearest name."""
    content = _content()
    if name not in content["tables"]:
        raise unknown("table", name, content["tables"])
    entry = content["tables"][name]
    lines: dict[tuple[str, ...], list[Published]] = {}
    for line in published():
        if line.source == entry["source"]:
            lines.setdefault((line.method, line.dataset, line.network, line.schedule, str(line.eps)), []).append(line)
    models = entry.get("models", [None] * len(lines))
    rows = tuple(
        _row(found, entry.get("recipes", {}), model) for found, model in zip(lines.values(), models, strict=True)
    )
    return TalkTable(name, entry["title"], entry["source"], rows)


def rows_of(recipe: str) -> Iterator[tuple[TalkTable, Row]]:
    """Yield every row that a recipe trains, with its settings or without, and its table."""
    for name in names():
        whole = table(name)
        yield from ((whole, row) for row in whole.rows if row.recipe == recipe)


def _row(found: list[Published], recipes: dict[str, str], model: str | None) -> Row:
    content, first = _content(), found[0]
    data = content["data"].get(first.dataset)
    method, *settings = recipes.get(first.method, content["methods"].get(first.method, "-")).split()
    settings += content["networks"].get(first.network, []) + content["schedules"].get(first.schedule, [])
    recipe = f"{data}/{method}" if data and method != "-" else None
    return Row(first.method, tuple(found), recipe, tuple(settings), data, model)


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "talk.yaml").read_text(encoding="utf-8"))
    return content
