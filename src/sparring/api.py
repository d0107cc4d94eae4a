"""What a program uses besides `train` and `evaluate`: recipes by name, trained networks by path, RobustBench's call."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from sparring import configuration, models, recipes
from sparring.choices import check_choice, check_kind
from sparring.data import Data, Splits
from sparring.data import load as load_data
from sparring.errors import BadInput
from sparring.evaluation import CLEAN, evaluate
from sparring.evaluation.network import check_batch_size, check_device
from sparring.experiment import Experiment, check_unchanged
from sparring.files import path_of
from sparring.norms import NormName
from sparring.randomness import check_seed
from sparring.results.robustbench import entry, entry_file, write_entry
from sparring.threat import Ratio, Threat
from sparring.training import Run, checkpoint


def recipe(name: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a recipe such as cifar10/fgsm-mep, or of a YAML file, with the command line's overrides.

    Overrides are a list of texts such as "--optimisation.epochs", "30". Raises BadInput for a name, a key or a value that
    cannot be.
    """
    check_kind("overrides", overrides, tuple[str, ...])
    return configuration.read(Experiment, recipes.find(str(path_of("A recipe's name", name))), overrides)


def load(path: str | Path, checkpoint_name: Literal["best", "last"] = "best") -> nn.Module:
    """Return a trained network, on the CPU, in evaluation mode: images (B, C, H, W) in [0, 1] -> logits (B, classes).

    `path` is a run's folder, a .safetensors file with its .yaml beside it, or `package.module:function`, a function of
    your own that returns a network. Nothing is unpickled. `checkpoint_name` is for the folder of a run: last is the network
    after its last epoch. Raises BadInput for what is missing or does not fit.
    """
    reference, path = str(path), path_of("The network's path", path)
    check_choice("checkpoint_name", checkpoint_name, ("best", "last"))
    if checkpoint_name == "last" and not path.is_dir():
        raise BadInput(f"Only the folder of a run has a last checkpoint: leave it out for {path}.")
    if not path.exists() and models.is_reference(reference):
        return models.imported(reference)
    if not path.exists() and (parts := re.fullmatch(r"(?P<file>.+?)(\.py)?:(?P<function>[A-Za-z_]\w*)", reference)):
        raise BadInput(
            f"{reference} names no function: write {Path(parts['file']).name}:{parts['function']}, which is looked for "
            "in the working folder and where Python looks."
        )
    if not path.exists():
        raise BadInput(
            f"There is no {path}: give the folder of a run, a .safetensors file, timm:NAME, or package.module:function."
        )
    if path.is_file() and path.suffix != ".safetensors":
        raise BadInput(
            f"{path} is no .safetensors file, and if it holds weights it does not say of which network: give "
            "package.module:function, a function that returns sparring.models.adopt(FILE, ModelDescription(...))."
        )
    network = models.load(path)
    if checkpoint_name == "last":
        last = Run(path).last
        check_unchanged(Run(path))
        state = checkpoint.load(last, needed=["learner"])["learner"]
        try:
            network.load_state_dict(models.with_counters(state["average"] or state["network"], network.state_dict()))
        except (LookupError, TypeError, RuntimeError) as error:  # of another network, or of other code
            raise BadInput(f"{last} is not of the network that {path} holds: restore it, or take the best.") from error
    return network


def pretrained(name: str, splits: Splits) -> nn.Module:
    """Return timm's pretrained network `timm:NAME`, for the images of `splits`, with its normalisation inside."""
    channels, *size = splits.test.pixels.shape[1:]
    return models.create(name, len(splits.classes), channels=channels, size=size, pretrained=True).eval()


_INSTEAD = {  # of RobustBench's arguments that are not taken
    "preprocessing": "Data prepares images (size among its settings), and what else a model needs belongs into its forward",
    "log_path": "evaluate(..., output=FILE) writes a record, and progress= is told how far each attack is",
    "aa_state_path": "evaluate(..., output=FILE) goes on where it was stopped",
    "corruptions_data_dir": "only accuracy under attack is measured, in Linf, L2 and L1",
}


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
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    doctor: bool = True,
    preprocessing: object = None,
    log_path: object = None,
    aa_state_path: object = None,
    corruptions_data_dir: object = None,
) -> tuple[float, float]:
    """Return clean accuracy and accuracy under AutoAttack on the first test images, as fractions: the call of RobustBench.

    `data_dir` holds the data set as in `Data.path`; None loads it from the hub. `device` is where the model is, None the
    CPU. With `to_disk` the figures are written to model_info/<dataset>/<threat_model>/<model_name>.json in RobustBench's
    format; what the file says besides is kept. The last four of RobustBench's arguments must be None: what does their work
    here is said where they are not. Raises BadInput for these, where a name is missing, and whatever `evaluate` refuses.
    """
    others = {"preprocessing": preprocessing, "log_path": log_path, "aa_state_path": aa_state_path}
    for name, value in (others | {"corruptions_data_dir": corruptions_data_dir}).items():
        if value is not None:
            raise BadInput(f"benchmark has no {name} here: {_INSTEAD[name]}.")
    for name, value, kind in (("to_disk", to_disk, bool), ("model_name", model_name, str | None)):
        check_kind(name, value, kind)
    check_seed(seed)
    check_batch_size(batch_size)
    if type(n_examples) is not int or n_examples < 1:
        raise BadInput(f"n_examples must be a whole number of at least 1, not {n_examples!r}.")
    device = "cpu" if device is None else device
    check_device(device)
    if to_disk and not model_name:
        raise BadInput("to_disk needs a model_name: RobustBench's are FirstAuthorYearFirstTitleWord.")
    splits = load_data(Data(dataset, path=data_dir))
    first = splits.test.subset(torch.arange(min(n_examples, len(splits.test))))
    splits = replace(splits, test=first)
    threat = Threat(threat_model, Ratio(eps))
    file = entry_file(splits.name, threat_model, model_name, Path("model_info")) if to_disk and model_name else None
    found = evaluate(
        model, splits, threat, (CLEAN, "aa"), batch_size=batch_size, device=device, seed=seed, doctor=doctor
    )
    for finding in found.findings:
        if finding.severity == "warning":
            warnings.warn(f"{finding.seen} {finding.why} {finding.advice}", stacklevel=2)
    if file:
        write_entry(entry(found, splits, threat), file)
    return found.accuracy(CLEAN), found.accuracy("aa")
