"""The records of `comparison` as a table in Markdown: a row a method, means over its seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparring.errors import BadInput

NOTED = ("method", "seed", "last", "best", "passes", "train_seconds")
STRONG = ("pgd-20", "cw-20")  # the columns whose best value is bold: accuracy under one step can be fooled

Noted = dict[str, Any]  # what is noted of a run


def read(record: Path) -> list[Noted]:
    """Return the runs of a record; raises BadInput if it is not one of ours."""
    try:
        runs: list[Noted] = json.loads(record.read_text())["runs"]
        ours = bool(runs) and all(key in run for run in runs for key in NOTED)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise BadInput(f"{record} is not a record of this benchmark: write one with comparison run --json {record}.")
    return runs


def markdown(runs: Sequence[Noted], methods: Sequence[str] = ()) -> str:
    """Return the table of these methods, or of all: means over the seeds, accuracies in percent with sample deviations."""
    by_method: dict[str, list[Noted]] = {}
    for run in runs:
        by_method.setdefault(run["method"], []).append(run)
    if missing := [method for method in methods if method not in by_method]:
        raise BadInput(f"The record has no run of {', '.join(missing)}: it has {', '.join(by_method)}.")
    chosen = [by_method[method] for method in methods or by_method]
    attacks = [*runs[0]["last"]]
    columns = {_title(attack): _accuracies(chosen, "last", attack) for attack in attacks}
    if "pgd-20" in attacks:
        columns["PGD-20, best epoch"] = _accuracies(chosen, "best", "pgd-20")
    columns["passes a step"] = [f"{_mean(of, 'passes'):.1f}" for of in chosen]
    columns["seconds"] = [f"{_mean(of, 'train_seconds'):.0f}" for of in chosen]
    rows = [
        ["method", *columns],
        ["---", *["---:"] * len(columns)],
        *([of[0]["method"], *cells] for of, *cells in zip(chosen, *columns.values(), strict=True)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _title(attack: str) -> str:
    return attack if attack == "clean" else attack.upper()


def _mean(runs: Sequence[Noted], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _accuracies(chosen: Sequence[Sequence[Noted]], epoch: str, attack: str) -> list[str]:
    """Return a cell a method; of equal best ones all are bold."""
    found = [[100 * run[epoch][attack] for run in runs] for runs in chosen]
    means = [f"{statistics.mean(values):.1f}" for values in found]
    best = max(means, key=float) if attack in STRONG else None
    cells = [
        f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
        for mean, values in zip(means, found, strict=True)
    ]
    return [f"**{cell}**" if mean == best else cell for mean, cell in zip(means, cells, strict=True)]
