"""Whether FGSM-SDI's generator learns: the loss behind its starts beside that behind uniform ones, by what it is shown. CPU.

    python -m benchmarks.accuracy.generator --json results/generator.json
    python -m benchmarks.accuracy.generator --data fashion_mnist --path ../shared/data/fashion_mnist --limit 3000 --epochs 15

After each epoch, on held-out images and the network as it is then: the cross-entropy of the examples that one step makes
from the generator's start, and from uniform starts. At the end, accuracy on test images, clean and attacked (Table II).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write_found
from benchmarks.harness.steps import Bench, held_out
from sparring.data import Batch
from sparring.losses import cross_entropy
from sparring.methods import SDI, AdversarialTraining, Perturbation

INPUTS = ("both", "gradient", "image")
ATTACKS = ("clean", "fgsm", "pgd-20")


def run(inputs: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return one training, looked at after every epoch."""
    words = [f"--method.inputs={inputs}", f"--optimisation.epochs={options.epochs}", f"--seed={seed}"]
    if options.path:
        words += [f"--data.path={options.path}", "--data.test_limit=1000"]
    if options.limit:
        words.append(f"--data.limit={options.limit}")
    bench = Bench(sparring.recipe(f"{options.data}/fgsm-sdi", words))
    rows = [{"epoch": epoch} | compare(bench, epoch) for epoch in bench.epochs()]
    return {"inputs": inputs, "seed": seed, "by_epoch": rows, "last": bench.accuracies(ATTACKS)}


def compare(bench: Bench, epoch: int) -> dict[str, float]:
    """Return the mean loss on held-out images after one step from either start; the network stays as it is."""
    method, model = bench.method, bench.learner.attack_model
    assert isinstance(method, SDI)
    random = AdversarialTraining(sparring.attacks.PGD(steps=1, alpha=bench.experiment.threat.eps, bn="eval"))
    bench.beside(random)
    served, method.bn = method.bn, "eval"
    sums = {"generator": 0.0, "uniform": 0.0, "images": 0.0}
    for number, batch in enumerate(held_out(bench.splits.test)):
        torch.manual_seed(1000 * epoch + number)
        for name, source in (("generator", method), ("uniform", random)):
            sums[name] += loss(model, batch, source.perturb(model, batch))
        sums["images"] += len(batch.y)
    method.bn = served
    means = {name: sums[name] / sums["images"] for name in ("generator", "uniform")}
    return {name: round(value, 4) for name, value in means.items()} | {
        "difference": round(means["generator"] - means["uniform"], 4)
    }


def loss(model: torch.nn.Module, batch: Batch, perturbation: Perturbation) -> float:
    """Return the sum of the cross-entropies, in evaluation mode."""
    with torch.no_grad(), sparring.attacks.attackable(model, "eval"):
        return float(cross_entropy(model(batch.x + perturbation.delta), batch.y).sum())


def table(results: list[dict[str, Any]]) -> Table:
    """Return a row a run: the gain over uniform starts in the first, the middle and the last epoch, and accuracies."""
    shown = Table("shown", "seed", "gain, first", "middle", "last", "epochs above", *ATTACKS)
    for result in results:
        gains = [row["difference"] for row in result["by_epoch"]]
        shown.add_row(
            result["inputs"],
            str(result["seed"]),
            *[f"{gain:+.4f}" for gain in (gains[0], gains[len(gains) // 2], gains[-1])],
            f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
            *[f"{value:.1%}" for value in result["last"].values()],
        )
    return shown


def main() -> int:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a data set with a recipe fgsm-sdi")
    parser.add_argument("--path", help="folder of its parquet files")
    parser.add_argument("--limit", type=int, help="training images")
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=INPUTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(inputs, seed, options) for seed in options.seeds for inputs in options.inputs]
    Console().print(table(results))
    write_found(options, paths=("path",), runs=results)
    return 0


if __name__ == "__main__":
    exit_with(main)
