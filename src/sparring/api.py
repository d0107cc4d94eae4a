"""What a program uses besides `train` and `evaluate`: recipes by name, trained networks by path, RobustBench's call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from sparring import configuration, models, recipes
from sparring.choices import check_choice
from sparring.data import Data, Splits
from sparring.data import load as load_data
from sparring.errors import BadInput
from sparring.evaluation import CLEAN, evaluate
from sparring.experiment import Experiment
from sparring.norms import NormName
from sparring.results.robustbench import entry, write_entry
from sparring.threat import Ratio, Threat
from sparring.training import Run, checkpoint


def recipe(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a recipe such as cifar10/fgsm-mep, or of a YAML file, with the command line's overrides."""
    return configuration.read(Experiment, recipes.find(name), overrides)


def load(path: str | Path, checkpoint_name: Literal["best", "last"] = "best") -> nn.Module:
    """Return a trained network, on the CPU, in evaluation mode: images (B, C, H, W) in [0, 1] -> logits (B, classes).

    `path` is a run's folder, a .safetensors file with its .yaml beside it, or `package.module:function`, a function of
    your own that returns a network. Nothing is unpickled. Raises BadInput for what is missing or does not fit.
    """
    check_choice("checkpoint_name", checkpoint_name, ("best", "last"))
    if not Path(path).exists() and models.is_reference(str(path)):
        return models.imported(str(path))
    path = Path(path)
    if not path.exists():
        raise BadInput(
            f"There is no {path}: give the folder of a run, a .safetensors file, timm:NAME, or package.module:function."
        )
    network = models.load(path)
    if checkpoint_name == "last":
        state = checkpoint.load(Run(path).last, needed=["learner"])["learner"]
        network.load_state_dict(models.with_counters(state["average"] or state["network"], network.state_dict()))
    return network


def pretrained(name: str, splits: Splits) -> nn.Module:
    """Return timm's pretrained network `timm:NAME`, for the images of `splits`, with its normalisation inside."""
    channels, *size = splits.test.pixels.shape[1:]
    return models.create(name, len(splits.classes), channels=channels, size=size, pretrained=True).eval()


def benchmark(
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: NormName = "Linf",
    eps: str | float = "8/255",
    *,
    model_name: str | None = None,
    data_dir: str | None = None,
    to_disk: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    seed: int = 0,
    doctor: bool = True,
) -> tuple[float, float]:
    """Return clean accuracy and accuracy under AutoAttack on the first test images, as fractions: the call of RobustBench.

    `data_dir` holds the data set as in `Data.path`; None loads it from the hub. With `to_disk` the figures are written
    to model_info/<dataset>/<threat_model>/<model_name>.json in RobustBench's format; what the file says besides is kept.
    Raises BadInput where there is a name missing, and whatever `evaluate` refuses.
    """
    if to_disk and not model_name:
        raise BadInput("to_disk needs a model_name: RobustBench's are FirstAuthorYearFirstTitleWord.")
    splits = load_data(Data(dataset, path=data_dir))
    first = splits.test.subset(torch.arange(min(n_examples, len(splits.test))))
    splits = replace(splits, test=first)
    threat = Threat(threat_model, Ratio(eps))
    found = evaluate(
        model, splits, threat, (CLEAN, "aa"), batch_size=batch_size, device=device, seed=seed, doctor=doctor
    )
    if to_disk and model_name:
        write_entry(entry(found, splits, threat), model_name, threat_model, Path("model_info"))
    return found.accuracy(CLEAN), found.accuracy("aa")
