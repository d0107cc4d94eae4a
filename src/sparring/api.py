"""What a program uses besides `train`: recipes by name, trained networks by path, and evaluations of any network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from sparring import configuration, models, recipes
from sparring.attacks import attackable
from sparring.attacks import named as attack_named
from sparring.data import Data, Images, Splits
from sparring.data import load as load_data
from sparring.errors import BadInput
from sparring.evaluation import CLEAN, Evaluation, Examination
from sparring.evaluation.robustness import Tick, silent
from sparring.experiment import Experiment
from sparring.threat import Threat
from sparring.training import Run, checkpoint


def recipe(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a recipe such as cifar10/fgsm-mep, or of a YAML file, with overrides as on the command line."""
    return configuration.read(Experiment, recipes.find(name), overrides)


def load(path: str | Path, checkpoint_name: Literal["best", "last"] = "best") -> nn.Module:
    """A trained network, on the CPU, in evaluation mode: images (B, C, H, W) in [0, 1] -> logits (B, classes).

    `path` is a run's folder or a .safetensors file with its .yaml beside it. Nothing is unpickled. Raises BadInput for
    what is missing or does not fit.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"There is no {path}: give the folder of a run or a .safetensors file.")
    network = models.load(path)
    if checkpoint_name == "last":
        state = checkpoint.load(Run(path).last)["learner"]
        network.load_state_dict(state["average"] or state["network"])
    return network


def evaluate(
    model: nn.Module,
    data: Data | Splits | Images,
    threat: Threat,
    attacks: Sequence[str] = ("clean", "fgsm", "pgd-20"),
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    seed: int = 0,
    tick: Tick = silent,
) -> Evaluation:
    """Accuracy on test images, clean and under attack; see `sparring.evaluation.Examination`.

    `model` returns logits of images in [0, 1] and is on `device`; `data` may be a configuration, loaded splits, of which
    the test images are used, or images.
    """
    splits = load_data(data) if isinstance(data, Data) else data
    images = splits.test if isinstance(splits, Splits) else splits
    if isinstance(splits, Splits):
        check_fit(model, splits, device)
    return Examination(model, images, threat, batch_size, device, seed).run(attacks, tick)


def check_attacks(attacks: Sequence[str]) -> None:
    """Raises BadInput for the first name that is neither clean nor an attack, and if there is none at all."""
    if not attacks:
        raise BadInput("No attack was named: write, for example, --attacks clean,pgd-20.")
    for name in attacks:
        if name != CLEAN:
            attack_named(name)


def check_fit(model: nn.Module, splits: Splits, device: torch.device | str) -> None:
    """Raises BadInput if the model cannot take the test images or does not tell their classes apart."""
    probe = splits.test.pixels[:2].to(device) / 255
    try:
        with torch.no_grad(), attackable(model, "eval"):
            classes = model(probe).shape[1]
    except RuntimeError as error:
        raise BadInput(
            f"The model cannot take images of shape {tuple(probe.shape[1:])}, those of {splits.name}."
        ) from error
    if classes != len(splits.classes):
        raise BadInput(f"The model knows {classes} classes, but {splits.name} has {len(splits.classes)}.")
