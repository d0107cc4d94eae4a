"""Which one-step methods overfit catastrophically: train each, follow it by epoch, attack it with many steps. CPU or GPU.

    python -m benchmarks.accuracy.overfitting --data ../shared/data/cifar10 --json results/overfitting.json
    python -m benchmarks.accuracy.overfitting --data ../shared/data/cifar10 --methods fgsm-rs --eps 16 --epochs 10

Every run is a CIFAR-10 recipe, narrowed and shortened by the options; it lives in a folder of `--runs`, is resumed where it
stopped, and is not repeated once it is finished. Two calls with different methods may share the folder. The record holds
the curves of all finished runs: accuracy on the training examples as the method made them (for FGSM-RS, FGSM accuracy in
training), and accuracy on held-out images, clean and under PGD-10; and an evaluation of the last epoch on test images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write, write_found
from sparring.results import figures

METHODS = ("fgsm-rs", "fgsm-sdi", "fgsm-bp", "fgsm-ep", "fgsm-mep", "fgsm-mep-official")
ATTACKS = ("clean", "fgsm", "pgd-20", "pgd-50")


@dataclass(frozen=True)
class Setting:
    """One run: a recipe, a radius in 255ths, a seed."""

    method: str
    eps: int
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.method}-eps{self.eps}-seed{self.seed}"

    def experiment(self, options: argparse.Namespace) -> sparring.Experiment:
        """Return the recipe at this radius, as small as the options make it; FGSM-RS keeps its step of 1.25 eps."""
        changes = {
            "data.path": options.data,
            "data.limit": options.images + options.held_out,
            "data.validation": options.held_out,
            "model.width": options.width,
            "threat.eps": f"{self.eps}/255",
            "optimisation.epochs": options.epochs,
            "optimisation.schedule": options.schedule,
            "selection.images": options.held_out,
            "selection.split": "validation",
            "seed": self.seed,
        }
        if self.method == "fgsm-rs":
            changes["method.attack.alpha"] = f"{1.25 * self.eps:g}/255"
        words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
        return sparring.recipe(f"cifar10/{self.method}", words)


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """Seed by seed, radius by radius, so that an interrupted call leaves complete comparisons."""
    for seed in options.seeds:
        for eps in options.eps:
            for method in options.methods:
                yield Setting(method, eps, seed)


def measure(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate, or read what an earlier call found."""
    folder = Path(options.runs) / setting.name
    found = folder / "overfitting.json"
    if found.is_file():
        return dict(json.loads(found.read_text()))
    experiment = setting.experiment(options)
    run = sparring.train(experiment, folder, resume=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = sparring.load(folder, "last").to(device)
    splits = sparring.data.load(experiment.data)
    tested = splits.test.subset(torch.arange(min(options.test_images, len(splits.test))))
    evaluation = sparring.evaluate(model, tested, experiment.threat, options.attacks, device=device, doctor=False)
    result = {
        "method": setting.method,
        "eps": f"{setting.eps}/255",
        "seed": setting.seed,
        "environment": json.loads((folder / "environment.json").read_text()),
        "config": (folder / "config.yaml").read_text().splitlines(),
        "by_epoch": [{key: round(value, 4) for key, value in row.items()} for row in run.metrics()],
        "test_images": len(tested),
        "last": {attack: round(evaluation.accuracy(attack), 4) for attack in options.attacks},
    }
    write(found, result)
    return result


def table(results: list[dict[str, Any]], attacks: list[str]) -> Table:
    """Return the last epoch of every run, and how the accuracies on training examples and under PGD-10 ended."""
    shown = Table(
        "method", "eps", "seed", *attacks, "best PGD-10", "last PGD-10", "training examples", title="Last epoch"
    )
    for result in results:
        rows = result["by_epoch"]
        accuracies = [
            *(result["last"].get(attack, float("nan")) for attack in attacks),
            max(row["robust"] for row in rows),
            rows[-1]["robust"],
        ]
        shown.add_row(
            result["method"],
            result["eps"],
            str(result["seed"]),
            *[f"{value:.1%}" for value in accuracies],
            f"{rows[-1]['train_accuracy']:.1%}",
        )
    return shown


def main() -> int:
    """Run what is not finished yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's parquet files")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="CIFAR-10 recipes")
    parser.add_argument("--eps", nargs="+", type=int, default=[8, 12, 16], help="radii, in 255ths")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--schedule", default="Cyclic", help="Cyclic: one triangle up to 0.1; MultiStep: the recipes' own"
    )
    parser.add_argument("--images", type=int, default=10000, help="training images")
    parser.add_argument("--held-out", type=int, default=300, help="images to follow a run on")
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, help="on test images, at the end")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage; 64 is the published one")
    parser.add_argument("--runs", default="runs/overfitting")
    parser.add_argument("--json", type=Path, help="record of all runs of this call")
    parser.add_argument(
        "--figure", type=Path, help="PNG of PGD-10 on held-out images by epoch, for one radius and seed"
    )
    options = parser.parse_args()
    results = [measure(setting, options) for setting in settings(options)]
    Console().print(table(results, options.attacks))
    if options.figure:
        figures.save(
            figures.robust_curves({result["method"]: result["by_epoch"] for result in results}), options.figure
        )
    write_found(options, paths=("data", "runs", "figure"), runs=results)
    return 0


if __name__ == "__main__":
    exit_with(main)
