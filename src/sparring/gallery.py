"""The figures of the talk that runs can be drawn as, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from torch import nn

from sparring import api, configuration
from sparring.data import Splits, load
from sparring.errors import BadInput, some, unknown
from sparring.evaluation.progress import fingerprint
from sparring.experiment import Experiment, check_unchanged
from sparring.files import read_text
from sparring.methods import LAS
from sparring.results import figures
from sparring.results.attacked import attacked, first_right
from sparring.results.gradcam import grad_cam, panels
from sparring.results.landscape import landscape, surfaces
from sparring.results.picture import pictures
from sparring.results.record import shown_record
from sparring.threat import Threat
from sparring.toy import drawn, toy
from sparring.training import Run
from sparring.training.run import Row

_AVERAGED = 32  # images of a landscape


@dataclass(frozen=True)
class Kind:
    """A figure: what it shows, and how it is drawn from runs by their names, or without any."""

    shows: str
    draw: Callable[[Mapping[str, Run]], Figure]
    of_runs: bool = True


def draw(name: str, folders: Sequence[str | Path]) -> Figure:
    """Return the figure of that name of the runs in these folders, at least one unless it is of none.

    Raises BadInput for an unknown name, for a folder without a run, and for a run that lacks what the figure needs: the
    sentence says which setting records it.
    """
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    if not FIGURES[name].of_runs:
        if folders:
            raise BadInput(f"The figure {name} is of no run: leave {folders[0]} out.")
        return FIGURES[name].draw({})
    if not folders:
        raise BadInput(f"The figure {name} needs the folder of a run, or of several.")
    return FIGURES[name].draw(named_runs(folders))


def named_runs(folders: Iterable[str | Path]) -> dict[str, Run]:
    """Return the runs by the shortest ends of their paths that tell them apart.

    Raises BadInput for a folder without a run, and for one that is given twice.
    """
    paths = [Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise BadInput("The same run is given twice: give each once.")
    for path in paths:
        if not Run(path).config.is_file():
            raise BadInput(f"{path} holds no run, as there is no config.yaml in it: give the folder of a run.")
        check_unchanged(Run(path))
    length = next(n for n in range(1, 1 + max(len(path.parts) for path in paths)) if _distinct(paths, n))
    return {"/".join(path.parts[-length:]): Run(path) for path in paths}


def _distinct(paths: Sequence[Path], length: int) -> bool:
    return len({path.parts[-length:] for path in paths}) == len(paths)


def _histories(runs: Mapping[str, Run]) -> dict[str, list[Row]]:
    return {name: run.metrics() for name, run in runs.items()}


def _single(runs: Mapping[str, Run]) -> Run:
    if len(runs) > 1:
        raise BadInput(f"This figure is of one run, not of {len(runs)}.")
    return next(iter(runs.values()))


def _experiment(run: Run) -> Experiment:
    return configuration.read(Experiment, run.config)


def _bands(runs: Mapping[str, Run]) -> Figure:
    """Draw runs whose names differ in their seeds alone as one band."""
    groups: dict[str, list[list[Row]]] = {}
    for name, run in runs.items():
        groups.setdefault(re.sub(r"[-_.]?seed[-_.=]?\d+|[-_.]\d+$", "", name), []).append(run.metrics())
    return figures.bands(groups)


def _norms(runs: Mapping[str, Run]) -> Figure:
    radii = {(str(threat.norm), str(threat.eps)) for threat in (_experiment(run).threat for run in runs.values())}
    if len(radii) > 1 or next(iter(radii))[0] != "Linf":
        raise BadInput("The figure norms is of runs against one radius in Linf: give such.")
    shapes = {prod(run.data()["shape"]) for run in runs.values()}
    if len(shapes) > 1:
        raise BadInput("The figure norms is of runs on images of one size: give such.")
    eps = float(_experiment(next(iter(runs.values()))).threat.eps)
    return figures.norms(_histories(runs), eps, shapes.pop())


def _actions(runs: Mapping[str, Run]) -> Figure:
    run = _single(runs)
    method = _experiment(run).method
    if not isinstance(method, LAS):
        raise BadInput(
            f"{run.folder} was trained by {type(method).__name__}, which chooses no actions: give a run of LAS."
        )
    tables = {name: getattr(method.actions, name) for name in ("eps", "steps", "alpha", "beta")}
    labels = {name: [str(value) for value in table] for name, table in tables.items() if table}
    return figures.action_shares({name: run.diagnostic(f"actions_{name}") for name in labels}, labels)


def _samples(runs: Mapping[str, Run]) -> Figure:
    run = _single(runs)
    return figures.sample_strengths(run.diagnostic("eps_expected"), float(_experiment(run).threat.eps))


def _perturbations(runs: Mapping[str, Run]) -> Figure:
    run = _single(runs)
    return figures.perturbation_panels(run.perturbations(), float(_experiment(run).threat.eps))


def _accuracies(run: Run) -> dict[str, float]:
    """Return accuracy by attack, as fractions, of the record of the best network on its own images and threat."""
    experiment = _experiment(run)
    weights = fingerprint(api.load(run.folder))[:16]
    record, _ = shown_record(run, experiment.threat, weights)
    if record is None:
        raise BadInput(f"{run.folder} has no record of its best epoch: sparring evaluate {run.folder}.")
    return {entry["attack"]: entry["accuracy"] for entry in record["attacks"]}


def _attacks(runs: Mapping[str, Run]) -> Figure:
    return figures.attack_bars({name: _accuracies(run) for name, run in runs.items()})


def _ablation(runs: Mapping[str, Run]) -> Figure:
    differing = settings_that_differ({name: read_text(run.config) for name, run in runs.items()})
    if len(differing) != 1:
        found = f"these differ in {some(list(differing))}" if differing else "these do not differ"
        raise BadInput(f"The figure ablation is of runs that differ in one setting, and {found}: give such.")
    ((setting, values),) = differing.items()
    return figures.ablation(setting.replace(".init_args", ""), values, [_accuracies(run) for run in runs.values()])


def settings_that_differ(configs: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return by the full name of a setting its value in each configuration, as texts, where not all are the same."""
    flat = [dict(_flat(yaml.safe_load(text))) for text in configs.values()]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    values = {key: tuple(settings.get(key, "") for settings in flat) for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, "null" if value is None else str(value)


def _alike(runs: Mapping[str, Run], figure: str) -> tuple[list[nn.Module], Splits, Threat]:
    """Return the best networks of runs on the same images against the same threat, and these."""
    if len({(str(_experiment(run).threat), run.data()["fingerprint"]) for run in runs.values()}) > 1:
        raise BadInput(f"The figure {figure} is of runs on the same images against the same threat: give such.")
    networks = [api.load(run.folder) for run in runs.values()]
    first = _experiment(next(iter(runs.values())))
    return networks, load(first.data, needs_train=False), first.threat


def _landscape(runs: Mapping[str, Run]) -> Figure:
    networks, splits, threat = _alike(runs, "landscape")
    x, y = first_right(networks, splits.test, _AVERAGED, "cpu")
    return surfaces({name: landscape(network, x, y, threat) for name, network in zip(runs, networks, strict=True)})


def _grad_cam(runs: Mapping[str, Run]) -> Figure:
    networks, splits, threat = _alike(runs, "grad-cam")
    x, y = first_right(networks, splits.test, 2, "cpu")
    found = {}
    for name, network in zip(runs, networks, strict=True):
        images = attacked(network, x, y, threat, "pgd-10")
        answers = (images.before.argmax(1), images.after.argmax(1))
        maps = [grad_cam(network, *pair) for pair in zip((x, images.adversarial), answers, strict=True)]
        found[name] = (images, maps[0], maps[1])
    return panels(found, splits.classes)


def _picture(runs: Mapping[str, Run]) -> Figure:
    _single(runs)
    (network,), splits, threat = _alike(runs, "picture")
    x, y = first_right([network], splits.test, 3, "cpu")
    return pictures(attacked(network, x, y, threat, "fgsm"), splits.classes, threat, "FGSM")


FIGURES: Mapping[str, Kind] = {
    "robust-accuracy": Kind(
        "robust accuracy on held-out images, by epoch", lambda runs: figures.robust_curves(_histories(runs))
    ),
    "overfitting": Kind(
        "robust accuracy on training and on held-out images, by epoch (LAS-AT, Fig. 1; FGSM-SDI, Fig. 5)",
        lambda runs: figures.train_test_curves(_histories(runs)),
    ),
    "attack-success": Kind(
        "success of the training attack, by epoch (FGSM-SDI, Fig. 6)",
        lambda runs: figures.attack_success(_histories(runs)),
    ),
    "seeds": Kind("robust accuracy over repeated trainings: mean and range (FGSM-SDI, Fig. 11)", _bands),
    "attacks": Kind("accuracy under each attack, run beside run (LAS-AT, Fig. 3)", _attacks),
    "ablation": Kind(
        "accuracy by the one setting in which runs differ, such as k, m or the loss's terms (LAS-AT, Tables 1 and 6; "
        "FGSM-SDI, Fig. 4 and 7)",
        _ablation,
    ),
    "minutes": Kind(
        "robust accuracy against minutes of training", lambda runs: figures.accuracy_and_minutes(_histories(runs))
    ),
    "actions": Kind("what a policy chooses, by epoch (LAS-AT, Fig. 4)", _actions),
    "samples": Kind("which radius a policy expects for single images, by epoch (LAS-AT, Fig. 5)", _samples),
    "perturbations": Kind("start and perturbation of single images, by epoch (FGSM-SDI, Fig. 8)", _perturbations),
    "norms": Kind("length of the perturbations beside Proposition 1 (FGSM-PGI)", _norms),
    "gradients": Kind(
        "running mean of squared gradient norms (LAS-AT, Theorem 1)",
        lambda runs: figures.gradient_means(_histories(runs)),
    ),
    "landscape": Kind(
        "loss over an adversarial and a random direction, mean of 32 images (FGSM-SDI, Fig. 10)", _landscape
    ),
    "grad-cam": Kind("Grad-CAM of two test images and of PGD-10's examples (FGSM-SDI, Fig. 9)", _grad_cam),
    "toy": Kind(
        "attacks of PGD-AT, FGSM-RS and FGSM-SDI on a point of two numbers; of no run (FGSM-SDI, Fig. 1)",
        lambda runs: drawn(toy()),
        of_runs=False,
    ),
    "picture": Kind("FGSM on three test images, with confidences before and after", _picture),
}
