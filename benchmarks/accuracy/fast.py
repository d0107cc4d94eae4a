"""What makes a short robust training good: schedules, rates, batches, smoothing, averages and methods at equal cost. CPU.

    python -m benchmarks.accuracy.fast --data ../shared/data/cifar10 --seeds 0 1 --json results/fast.json
    python -m benchmarks.accuracy.fast --data ../shared/data/cifar10 --variants base "batch 128, rate 0.2"

A variant is a CIFAR-10 recipe and what is changed in it; all but the named change is the base: N-FGSM, batches of 32, a rate
of 0.05 that rises for a tenth of the run and falls linearly to 0. The batch is a quarter of the published one because the
images are a twelfth: an epoch has 128 steps, a third of the published ones, and not 32. Every run may spend the same number
of forward passes an image (`--passes`), so a method of dearer steps gets fewer epochs. Every run keeps an exponential
average of its weights, which changes nothing in the training: the last network and the average of one run are compared
with each other. A run lives in a folder of `--runs`, is resumed where it stopped, and is not repeated once it is finished.
With `--finished` nothing is trained, and the record and the table hold what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write, write_found
from sparring.configuration import to_yaml
from sparring.errors import BadInput
from sparring.evaluation import with_names
from sparring.models import with_counters
from sparring.training import checkpoint

ATTACKS = ("clean", "pgd-20", "cw-20")
NETWORKS = ("last", "average")  # the weights of the last step, and their average over the last steps

# Forward passes a step, by recipe (docs/methods/cost.md).
UNITS = {"n-fgsm": 5, "fgsm-rs": 5, "pgd2-at": 7, "fgsm-mep": 7, "fgsm-mep-printed": 7}


@dataclass(frozen=True)
class Variant:
    """A recipe of CIFAR-10, and words of the command line that change it."""

    recipe: str = "n-fgsm"
    changes: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """Forward passes a step."""
        return UNITS[self.recipe]

    def epochs(self, passes: int) -> int:
        """Return how many epochs cost so many forward passes an image."""
        return max(1, round(passes / self.units))


def _optimisation(**changes: object) -> tuple[str, ...]:
    return tuple(f"--optimisation.{name}={value}" for name, value in changes.items())


_SMOOTHED = "--method.smoothing="
_FLAT = "[[0, 0], [0.1, 1], [0.7, 1], [1, 0]]"
_SINGLE = ("--runtime.precision=32", "--runtime.channels_last=false")

VARIANTS = {
    "base": Variant(),
    # The schedule.
    "multistep": Variant(changes=_optimisation(schedule="MultiStep")),
    "cyclic": Variant(changes=_optimisation(schedule="Cyclic")),
    "cosine": Variant(changes=(*_optimisation(schedule="Cosine"), "--optimisation.schedule.warmup=0.1")),
    "flat, then falling": Variant(
        changes=(*_optimisation(schedule="Piecewise"), f"--optimisation.schedule.points={_FLAT}")
    ),
    # The rate, and the batch with the rate in proportion.
    "rate 0.1": Variant(changes=_optimisation(lr=0.1)),
    "batch 64, rate 0.1": Variant(changes=_optimisation(batch_size=64, lr=0.1)),
    "batch 128, rate 0.2": Variant(changes=_optimisation(batch_size=128, lr=0.2)),
    # Label smoothing.
    "smoothing 0.1": Variant(changes=(f"{_SMOOTHED}0.1",)),
    "smoothing 0.3": Variant(changes=(f"{_SMOOTHED}0.3",)),
    # The method.
    "fgsm-rs": Variant("fgsm-rs"),
    "pgd2-at": Variant("pgd2-at"),
    "fgsm-mep-printed": Variant("fgsm-mep-printed"),
    "fgsm-mep": Variant("fgsm-mep"),
    "fgsm-mep, smoothing 0.3": Variant("fgsm-mep", (f"{_SMOOTHED}0.3",)),
    # The arithmetic. On a CPU some strided convolutions of eight channels break in NHWC and single precision.
    "single precision": Variant(changes=_SINGLE),
    "rate 0.1, single precision": Variant(changes=(*_optimisation(lr=0.1), *_SINGLE)),
}


@dataclass(frozen=True)
class Setting:
    """One run: a variant, and a seed."""

    variant: str
    seed: int

    def folder(self, options: argparse.Namespace) -> Path:
        """Return where the run lives."""
        return Path(options.runs) / f"{self.variant.replace(', ', '-').replace(' ', '-')}-seed{self.seed}"

    def experiment(self, options: argparse.Namespace) -> sparring.Experiment:
        """Return the recipe on the base's terms, and then what the variant changes."""
        variant = VARIANTS[self.variant]
        base = {
            "data.path": options.data,
            "data.limit": options.images + options.held_out,
            "data.validation": options.held_out,
            "model.width": options.width,
            "optimisation.epochs": variant.epochs(options.passes),
            "optimisation.batch_size": 32,
            "optimisation.lr": 0.05,
            "optimisation.schedule": "Linear",
            "optimisation.schedule.warmup": 0.1,
            "optimisation.average": "EMA",
            "optimisation.average.decay": options.decay,
            "optimisation.drop_last": "true",
            "runtime.precision": "bf16-mixed",
            "seed": self.seed,
        }
        words = [f"--{key}={value}" for key, value in base.items()]
        return sparring.recipe(f"cifar10/{variant.recipe}", [*words, *variant.changes])


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """Seed by seed, so that an interrupted call leaves complete comparisons."""
    for seed in options.seeds:
        for variant in options.variants:
            yield Setting(variant, seed)


def check(options: argparse.Namespace) -> None:
    """Raise BadInput for what would stop one of the runs, before the first of them begins."""
    with_names(options.attacks)
    if unknown := [variant for variant in options.variants if variant not in VARIANTS]:
        raise BadInput(f"There is no variant {unknown[0]!r}: choose from {'; '.join(VARIANTS)}.")
    for setting in settings(options):
        sparring.Run(setting.folder(options)).refuse(to_yaml(setting.experiment(options)), resume=True)


def measure(setting: Setting, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train and evaluate, or read what an earlier call found; None for a run that is to be left unfinished."""
    folder = setting.folder(options)
    found = folder / "fast.json"
    if found.is_file():
        return dict(json.loads(found.read_text()))
    if options.finished:
        return None
    experiment = setting.experiment(options)
    run = sparring.train(experiment, folder, resume=True)
    tested = sparring.data.load(experiment.data).test
    tested = tested.subset(torch.arange(min(options.test_images, len(tested))))
    rows = run.metrics()
    result = {
        "variant": setting.variant,
        "seed": setting.seed,
        "environment": json.loads((folder / "environment.json").read_text()),
        "config": [line for line in run.config.read_text().splitlines() if not line.startswith("  path:")],
        "epochs": len(rows),
        "steps": int(rows[-1]["steps"]),
        "train_seconds": round(sum(row["train_seconds"] for row in rows), 1),
        "robust_by_epoch": [round(row["robust"], 4) for row in rows],
        "test_images": len(tested),
    }
    for name in NETWORKS:
        model = network(folder, name)
        evaluation = sparring.evaluate(model, tested, experiment.threat, options.attacks, doctor=False)
        result[name] = {attack: round(evaluation.accuracy(attack), 4) for attack in options.attacks}
    write(found, result)
    return result


def network(folder: Path, name: str) -> nn.Module:
    """Return the network of a finished run, with the weights of its last step or with their average."""
    model = sparring.load(folder, "last")
    if name == "last":
        weights = checkpoint.load(sparring.Run(folder).last)["learner"]["network"]
        model.load_state_dict(with_counters(weights, model.state_dict()))
    return model


def table(results: Sequence[dict[str, Any]], attacks: Sequence[str]) -> Table:
    """Return a row a run, last network / average in percent: no means, as one seed of a variant may
    collapse and another not.
    """
    shown = Table("variant", "seed", "epochs", "steps", *(f"{attack}, last / average" for attack in attacks), "seconds")
    for run in sorted(results, key=lambda run: list(VARIANTS).index(run["variant"])):
        cells = [" / ".join(f"{run[name][attack]:.1%}" for name in NETWORKS) for attack in attacks]
        counts = [str(run[name]) for name in ("seed", "epochs", "steps")]
        shown.add_row(run["variant"], *counts, *cells, f"{run['train_seconds']:.0f}")
    return shown


def main() -> int:
    """Train all runs that are not finished yet; write their table and their record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's parquet files")
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--passes", type=int, default=100, help="forward passes an image that a run may spend")
    parser.add_argument("--images", type=int, default=4096, help="training images")
    parser.add_argument("--held-out", type=int, default=256, help="images to follow a run on")
    parser.add_argument("--decay", type=float, default=0.997, help="of the average of the weights")
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, help="on test images, after the last epoch")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage; 64 is the published one")
    parser.add_argument("--runs", default="runs/fast")
    parser.add_argument("--finished", action="store_true", help="train nothing: collect what is finished")
    parser.add_argument("--json", type=Path, help="record of all runs of this call")
    options = parser.parse_args()
    torch.set_num_threads(1)
    check(options)
    results = [result for setting in settings(options) if (result := measure(setting, options))]
    Console().print(table(results, options.attacks))
    write_found(options, paths=("data", "runs"), runs=results)
    return 0


if __name__ == "__main__":
    exit_with(main)
