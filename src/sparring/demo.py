"""The main job in a minute or two, on embedded data: train four methods alike, compare them, draw their curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from sparring import api
from sparring.data import load
from sparring.evaluation import Evaluation, evaluate
from sparring.experiment import train
from sparring.results.figures import robust_curves, save
from sparring.results.tables import comparison_table
from sparring.training import Run

METHODS = {
    "standard": "Standard",
    "fgsm-rs": "FGSM-RS",
    "pgd-at": "PGD-AT",
    "fgsm-mep": "FGSM-MEP",
}
ATTACKS = ("clean", "fgsm", "pgd-20")


@dataclass(frozen=True)
class Contender:
    """One method's run and how it fared on the test images."""

    run: Run
    evaluation: Evaluation

    @property
    def seconds(self) -> float:
        """Training time without the validation after every epoch."""
        return sum(row["train_seconds"] for row in self.run.metrics())


def demo(folder: Path, console: Console) -> None:
    """Train the four methods under `folder` (or finish what is there), print one table, save one plot."""
    torch.set_num_threads(1)  # 8x8 images keep one core busy; a second thread mostly waits, and long on a busy machine
    contenders = {}
    for recipe, name in METHODS.items():
        experiment = api.recipe(f"digits/{recipe}")
        run = train(experiment, folder / recipe, resume=True)
        splits = load(experiment.data)
        evaluation = evaluate(api.load(run.folder), splits, experiment.threat, ATTACKS, doctor=False)
        contenders[name] = Contender(run, evaluation)
    title = f"{splits.name}: {len(splits.test)} test images, {experiment.threat.norm} eps {experiment.threat.eps}"
    seconds = {name: contender.seconds for name, contender in contenders.items()}
    evaluations = {name: contender.evaluation for name, contender in contenders.items()}
    console.print(comparison_table(title, evaluations, seconds))
    figure = folder / "robust-accuracy.png"
    save(robust_curves({name: contender.run.metrics() for name, contender in contenders.items()}), figure)
    console.print(f"Curves: {figure}", soft_wrap=True)
