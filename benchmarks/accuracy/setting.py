"""What one setting of a recipe changes: the recipe without and with it, on the same seeds, and the paired difference. CPU.

    python -m benchmarks.accuracy.setting digits/trades --with method.forwards=clean-adversarial-clean --seeds 15 \
        --json benchmarks/results/forwards-digits-cpu.json
    python -m benchmarks.accuracy.setting cifar10/trades --with method.forwards=clean-adversarial-clean --seeds 3 \
        --both data.path=../shared/data/cifar10 model.width=8 optimisation.epochs=8 data.limit=2100 data.validation=100 \
        data.test_limit=1000

Networks are those after the last epoch, on test images. `--both` is set in both.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write_found
from benchmarks.harness.steps import Bench
from benchmarks.harness.timing import say

ATTACKS = ("clean", "pgd-20")


def accuracies(recipe: str, seed: int, settings: list[str]) -> dict[str, float]:
    """Train a recipe with settings KEY=VALUE and return its accuracies by attack."""
    bench = Bench(sparring.recipe(recipe, [f"--{setting}" for setting in settings] + [f"--seed={seed}"]))
    bench.finish()
    network = bench.learner.export_model.eval()
    evaluation = sparring.evaluate(network, bench.splits.test, bench.experiment.threat, ATTACKS, doctor=False)
    return {attack: round(evaluation.accuracy(attack), 4) for attack in ATTACKS}


def table(runs: list[dict[str, Any]]) -> Table:
    """Return a row an attack: means, and the mean of the differences with its standard error, in points."""
    shown = Table("attack", "without", "with", "difference", "standard error")
    for attack in ATTACKS:
        without, with_it = ([100 * run[side][attack] for run in runs] for side in ("without", "with"))
        differences = [b - a for a, b in zip(without, with_it, strict=True)]
        error = f"{statistics.stdev(differences) / len(runs) ** 0.5:.2f}" if len(runs) > 1 else ""
        means = [f"{statistics.mean(found):.1f}" for found in (without, with_it)]
        shown.add_row(attack, *means, f"{statistics.mean(differences):+.2f}", error)
    return shown


def main() -> int:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--with", dest="setting", nargs="+", required=True, metavar="KEY=VALUE")
    parser.add_argument("--both", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=15, help="how many, from 0")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        sides = {"without": options.both, "with": [*options.both, *options.setting]}
        runs.append(
            {"seed": seed} | {side: accuracies(options.recipe, seed, settings) for side, settings in sides.items()}
        )
        say(f"seed {seed}: {runs[-1]}")
        write_found(options, runs=runs)
    Console().print(table(runs))
    return 0


if __name__ == "__main__":
    exit_with(main)
