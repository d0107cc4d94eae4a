"""How robust each training method makes the same network, and at what cost: one protocol for all, on small images. CPU.

    python -m benchmarks.accuracy.comparison run --data-set digits --json benchmarks/results/accuracy-digits-cpu.json
    python -m benchmarks.accuracy.comparison run --data-set fashion_mnist --data ../shared/data/fashion_mnist \\
        --json benchmarks/results/accuracy-fashion_mnist-cpu.json
    python -m benchmarks.accuracy.comparison table benchmarks/results/accuracy-digits-cpu.json --into docs/methods/results.md

Every run is a recipe whose network, optimizer, schedule and passes over the data are replaced by those of all; what the
method adds (its attack, a weight average, rounded pixels) stays. A run lives in a folder of `--runs`, is resumed where it
stopped, and is not repeated once it is finished: several calls with other methods or seeds may share the folder. Noted are
the accuracies on test images after the last epoch and after the best one on held-out images (by the recipe's own
selection), the seconds of training, and what a step costs in forward passes when training ends. `table` turns a record into
Markdown, or renews it in pages between `<!-- accuracy: RECORD -->` and `<!-- end of accuracy -->`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.markdown import Markdown

import sparring
from benchmarks.accuracy.tables import Noted, markdown, read
from benchmarks.harness.command import exit_with
from benchmarks.harness.methods import RECIPES
from benchmarks.harness.pages import renew
from benchmarks.harness.record import write, write_found
from benchmarks.harness.steps import Bench
from sparring.configuration import to_yaml
from sparring.data import Images
from sparring.errors import BadInput
from sparring.evaluation import with_names
from sparring.randomness import seed_from
from sparring.schedule import Cyclic
from sparring.training import checkpoint
from sparring.training.cost import step_cost

ATTACKS = ("clean", "fgsm", "pgd-20", "cw-20")
COUNTED_STEPS = 40  # the longest interval at which a recipe's policy or generator is updated


@dataclass(frozen=True)
class Size:
    """What a data set's runs take by default; None is all the images, or the recipe's choice."""

    epochs: int
    images: int | None = None
    held_out: int | None = None
    width: int | None = None


SIZES = {"digits": Size(epochs=20), "fashion_mnist": Size(epochs=8, images=3000, held_out=300, width=8)}


@dataclass(frozen=True)
class Setting:
    """One run: a recipe of the data set, and a seed."""

    data_set: str
    method: str
    seed: int

    def folder(self, options: argparse.Namespace) -> Path:
        """Return where the run lives."""
        return Path(options.runs) / self.data_set / f"{self.method}-seed{self.seed}"

    def experiment(self, options: argparse.Namespace) -> sparring.Experiment:
        """Return the recipe under the protocol of all methods."""
        recipe = sparring.recipe(f"{self.data_set}/{self.method}")
        return replace(
            recipe,
            data=replace(recipe.data, path=options.data, limit=options.images, validation=options.held_out),
            model=replace(recipe.model, name="smallconv", width=options.width),
            optimisation=replace(
                recipe.optimisation,
                epochs=options.epochs,
                batch_size=128,
                optimizer="sgd",
                lr=0.1,
                momentum=0.9,
                nesterov=False,
                weight_decay=5e-4,
                schedule=Cyclic(),
            ),
            runtime=replace(recipe.runtime, accelerator="cpu"),
            seed=self.seed,
        )


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """Seed by seed, so that an interrupted call leaves complete comparisons."""
    for seed in options.seeds:
        for method in options.methods:
            yield Setting(options.data_set, method, seed)


def check(options: argparse.Namespace) -> None:
    """Raise BadInput for what would stop one of the runs, before the first of them begins."""
    with_names(options.attacks)
    if options.test_images < 1:
        raise BadInput(f"There must be images to test on: give --test-images at least 1, not {options.test_images}.")
    for setting in settings(options):
        folder = sparring.Run(setting.folder(options))
        folder.refuse(to_yaml(setting.experiment(options)), resume=True)
    experiment = setting.experiment(options)
    images, needed = len(sparring.data.load(experiment.data).train), experiment.optimisation.batch_size
    if images < needed:
        raise BadInput(f"There are {images} images to train on: give --images at least {needed} above --held-out.")


def measure(setting: Setting, options: argparse.Namespace) -> Noted:
    """Train, evaluate and count, or read what an earlier call found."""
    folder, experiment = setting.folder(options), setting.experiment(options)
    tested = sparring.data.load(experiment.data).test
    tested = tested.subset(torch.arange(min(options.test_images, len(tested))))
    found = folder / "accuracy.json"
    if found.is_file():
        noted: Noted = json.loads(found.read_text())
        if noted["test_images"] == len(tested) and [*noted["last"]] == [*options.attacks]:
            return noted
    else:  # a trained run that is only to be evaluated anew keeps the environment that it was trained in
        sparring.train(experiment, folder, resume=True)
    run = sparring.Run(folder)
    noted = {
        "method": setting.method,
        "seed": setting.seed,
        "environment": json.loads((folder / "environment.json").read_text()),
        "config": run.config.read_text().splitlines(),
        "test_images": len(tested),
        "last": accuracies(folder, "last", tested, experiment.threat, options.attacks),
        "best": accuracies(folder, "best", tested, experiment.threat, options.attacks),
        "passes": round(passes(setting.experiment(options), folder), 3),
        "train_seconds": round(sum(row["train_seconds"] for row in run.metrics()), 2),
    }
    write(found, noted)
    return noted


def accuracies(
    folder: Path, epoch: Literal["best", "last"], images: Images, threat: sparring.Threat, attacks: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of the network after this epoch of the run."""
    evaluation = sparring.evaluate(sparring.load(folder, epoch), images, threat, attacks, doctor=False)
    return {attack: round(evaluation.accuracy(attack), 4) for attack in attacks}


def passes(experiment: sparring.Experiment, folder: Path) -> float:
    """Return the mean cost of a training step as the finished run would go on, in forward passes of the batch.

    Counted on the last epoch's whole batches, over and over where they are few: schedules, memories and policies then
    stand where training left them, and so does the network, as the rate has come down to 0.
    """
    bench = Bench(experiment)
    state = checkpoint.load(sparring.Run(folder).last)
    options = experiment.optimisation
    epoch = options.epochs - 1
    bench.session.load_state_dict({**state, "epoch": epoch, "batch": 0})
    bench.session.begin_epoch()
    shown = map(bench.show, bench.session.draws())
    whole = [batch for batch in shown if len(batch.y) == options.batch_size]
    costs = []
    for batch in islice(cycle(whole), COUNTED_STEPS):
        torch.manual_seed(seed_from(experiment.seed, bench.learner.steps))
        costs.append(step_cost(bench.method, bench.learner, batch, epoch))
    return statistics.mean(costs)


def run(options: argparse.Namespace) -> None:
    """Train all runs that are not finished yet; write their table and their record."""
    torch.set_num_threads(1)
    for name, value in vars(SIZES[options.data_set]).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    check(options)
    results = [measure(setting, options) for setting in settings(options)]
    Console().print(Markdown(markdown(results)))
    write_found(options, paths=("data", "runs"), runs=results)


def table(options: argparse.Namespace) -> None:
    """Print a record in Markdown, or write it into pages."""
    runs = read(options.record)
    if options.into:
        renew(options.into, "accuracy", {options.record.stem: runs}, lambda found: markdown(*found))
    else:
        print(markdown(runs, options.methods))


def main() -> int:
    """Run what is not finished yet, or show a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    running = commands.add_parser("run", help="train and measure what is not finished yet")
    running.add_argument("--data-set", choices=SIZES, required=True)
    running.add_argument("--data", help="folder of its parquet files")
    running.add_argument("--methods", nargs="+", default=RECIPES, help="recipes of the data set")
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    running.add_argument("--epochs", type=int, help="of every method")
    running.add_argument("--images", type=int, help="training images, those held out included")
    running.add_argument("--held-out", type=int, help="images that the best epoch is chosen on")
    running.add_argument("--width", type=int, help="channels of the network's first stage")
    running.add_argument("--test-images", type=int, default=1000, help="at most so many")
    running.add_argument("--attacks", nargs="+", default=ATTACKS, help="on test images")
    running.add_argument("--runs", default="runs/accuracy")
    running.add_argument("--json", type=Path, help="record of all runs of this call")

    showing = commands.add_parser("table", help="a record in Markdown")
    showing.add_argument("record", type=Path)
    shown = showing.add_mutually_exclusive_group()
    shown.add_argument("--methods", nargs="+", default=(), help="only these rows, in this order")
    shown.add_argument("--into", nargs="+", type=Path, help="pages whose tables of this record are renewed")

    options = parser.parse_args()
    {"run": run, "table": table}[options.command](options)
    return 0


if __name__ == "__main__":
    exit_with(main)
