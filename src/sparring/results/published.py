"""The talk's published figures as data: every row of its tables, as it was printed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from sparring.threat import Ratio

_FOLDER = Path(__file__).parent
_ATTACKS = {  # of the columns, the attacks as they are called here
    "clean": "clean",
    "fgsm": "fgsm",
    "pgd10": "pgd-10",
    "pgd20": "pgd-20",
    "pgd50": "pgd-50",
    "cw": "cw-20",  # how many steps is not printed
    "apgd": "apgd-ce",
    "aa": "aa",
}


@dataclass(frozen=True)
class Published:
    """A row of a published table; accuracies are in percent, with the digits that were printed."""

    source: str  # the paper's short name and the number of its table
    dataset: str
    network: str
    schedule: str  # "multistep", "cyclic" or "unspecified"
    method: str
    checkpoint: str  # "best" (chosen by PGD-10 on the test images), "last" or "unspecified"
    eps: Ratio | None  # Linf, None where it is not printed
    accuracies: Mapping[str, Decimal]  # by attack
    minutes: Decimal | None  # of training
    note: str  # where a value is odd, or who inferred what


@cache
def published() -> tuple[Published, ...]:
    """Return all rows, in the order in which they are printed."""
    with (_FOLDER / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_read(row) for row in csv.DictReader(file))


def _read(row: Mapping[str, str]) -> Published:
    return Published(
        source=row["source"],
        dataset=row["dataset"],
        network=row["architecture"],
        schedule=row["schedule"],
        method=row["method"],
        checkpoint=row["checkpoint"],
        eps=Ratio(f"{row['epsilon_255']}/255") if row["epsilon_255"] else None,
        accuracies={attack: Decimal(row[column]) for column, attack in _ATTACKS.items() if row[column]},
        minutes=Decimal(row["train_time_minutes"]) if row["train_time_minutes"] else None,
        note=row["notes"],
    )


@dataclass(frozen=True)
class BrokenDefence:
    """A row of the talk's table about defences that obfuscated gradients (Athalye et al., ICML 2018)."""

    defence: str
    dataset: str
    radius: str
    norm: str
    accuracy: Decimal  # percent, under the adaptive attack
    marks: (
        str  # "*": without the adversarial training that it proposes, too; "**": 0 in principle, imperfections help it
    )


@cache
def broken_defences() -> tuple[BrokenDefence, ...]:
    """Return the rows of the talk's table about BPDA, in their order."""
    with (_FOLDER / "published_bpda.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            BrokenDefence(
                row["defense"],
                row["dataset"],
                row["distance"],
                row["norm"],
                Decimal(row["accuracy"]),
                row["footnote_marks"],
            )
            for row in csv.DictReader(file)
        )
