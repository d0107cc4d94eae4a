"""Which statistics BatchNorm should have in an average of weights: averaged alike, or the last network's. CPU.

    python -m benchmarks.accuracy.averaging --json results/averaging.json
    python -m benchmarks.accuracy.averaging --method fgsm-rs --average EMA --epochs 10

Trains a digits recipe with an average of its weights and compares, on test images: the last network, the average as Sparring
keeps it (running statistics averaged by the same shares), and the average with the last network's statistics in it.
"""

from __future__ import annotations

import argparse
import statistics
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write_found
from benchmarks.harness.steps import Bench

ATTACKS = ("clean", "pgd-20")


def run(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return one training, and the accuracies of its three networks."""
    words = [f"--optimisation.average={options.average}", f"--optimisation.epochs={options.epochs}", f"--seed={seed}"]
    if options.average == "SWA":
        words.append(f"--optimisation.average.start={options.start}")
    bench = Bench(sparring.recipe(f"digits/{options.method}", words))
    bench.finish()
    last, average = bench.learner.network, bench.learner.export_model
    networks = {"last": last, "average": average, "average, last statistics": with_statistics(average, last)}
    tested, threat = bench.splits.test, bench.experiment.threat
    accuracies = {}
    for name, network in networks.items():
        evaluation = sparring.evaluate(network.eval(), tested, threat, ATTACKS, doctor=False)
        accuracies[name] = {attack: round(evaluation.accuracy(attack), 4) for attack in ATTACKS}
    return {"seed": seed, "accuracies": accuracies}


def with_statistics(network: nn.Module, source: nn.Module) -> nn.Module:
    """Return a copy of the network with the buffers of the source."""
    copy = deepcopy(network)
    for kept, other in zip(copy.buffers(), source.buffers(), strict=True):
        kept.copy_(other)
    return copy


def table(results: list[dict[str, Any]]) -> Table:
    """Return a row a network: mean and sample deviation over the seeds."""
    shown = Table("network", *ATTACKS)
    for name in results[0]["accuracies"]:
        cells = []
        for attack in ATTACKS:
            found = [100 * result["accuracies"][name][attack] for result in results]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}")
        shown.add_row(name, *cells)
    return shown


def main() -> int:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="pgd-at", help="a recipe of digits")
    parser.add_argument("--average", choices=("SWA", "EMA"), default="SWA")
    parser.add_argument("--start", default="1/2", help="of SWA, as a fraction of the run")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(seed, options) for seed in options.seeds]
    Console().print(table(results))
    write_found(options, runs=results)
    return 0


if __name__ == "__main__":
    exit_with(main)
