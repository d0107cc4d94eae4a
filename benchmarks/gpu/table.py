"""Show what was measured, and what failed.

python -m benchmarks.gpu.table benchmarks/results/gpu
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.runs import Checkpoint
from benchmarks.harness import timing
from benchmarks.speed.captured import Comparison, comparison_table
from benchmarks.speed.cost import Cost, cost_table
from benchmarks.speed.race import Race, race_table

Records = Mapping[str, Mapping[str, Any]]
CHECKPOINTS: tuple[Checkpoint, ...] = ("best", "last")


def tables(records: Records) -> Iterator[Table]:
    """Yield a table of each kind of which there are records."""
    if comparisons := [Comparison(**record["comparison"]) for record in records.values() if "comparison" in record]:
        yield comparison_table(comparisons)
    yield from _steps(records)
    if races := [Race(**record["race"]) for record in records.values() if "race" in record]:
        yield race_table(races)
    yield from _runs(records)
    if failures := {name: record["failed"] for name, record in records.items() if "failed" in record}:
        shown = timing.table("Failed", ("measurement", "why"), ())
        for name, reason in failures.items():
            shown.add_row(name, reason.splitlines()[0])
        yield shown


def _steps(records: Records) -> Iterator[Table]:
    """Yield the steps of each network and batch size, with their shares of the matrix product's rate if it was measured."""
    found: dict[tuple[str, int, str], list[Cost]] = defaultdict(list)
    for record in records.values():
        if "step" in record:
            found[record["model"], record["batch"], record["kind"]].append(Cost(**record["step"]))
    ceilings = records.get("ceilings", {}).get("ceilings", {})
    for (model, batch, kind), costs in found.items():
        best = ceilings.get(f"{kind}_tflop_per_s", float("nan"))
        yield cost_table(costs, f"A step, {model}, batch {batch}, {kind}, NHWC", batch, best)


def _runs(records: Records) -> Iterator[Table]:
    """Yield the whole runs: minutes of training and validation, and accuracies in percent by attack, best and last."""
    runs = {name: record for name, record in records.items() if "epochs" in record}
    if not runs:
        return
    shown = timing.table(
        "Runs, images " + next(iter(runs.values()))["images"], ("run",), ("epochs", "min", *CHECKPOINTS)
    )
    for name, record in runs.items():
        seconds = sum(row["train_seconds"] + row["validation_seconds"] for row in record["epochs"])
        accuracies = [record.get(f"{one}_accuracy", {}) for one in CHECKPOINTS]
        words = [", ".join(f"{attack} {100 * value:.1f}" for attack, value in one.items()) for one in accuracies]
        shown.add_row(name, str(len(record["epochs"])), f"{seconds / 60:.2f}", *words)
    yield shown


def main(words: Sequence[str] | None = None) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the records")
    options = parser.parse_args(words)
    records = {file.stem: json.loads(file.read_text()) for file in sorted(options.folder.glob("*.json"))}
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables(records):
        console.print(table, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
